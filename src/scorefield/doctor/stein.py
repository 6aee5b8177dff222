"""The kernel Stein discrepancy of held-out rows from the law with the learned score."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from scorefield.data import Dataset
from scorefield.doctor.finding import LEVEL, Finding, judged, skipped
from scorefield.doctor.law import one_law
from scorefield.doctor.levels import more
from scorefield.doctor.patient import Patient
from scorefield.estimators import kernel_stein_test
from scorefield.fields import at, given
from scorefield.runs import Run

ROWS = 200
MOST = 20  # dimensions; in more the kernel sees little
RATIO = 0.3  # sigma/alpha of the level that is looked at


def examine_fit(patient: Patient, run: Run, model: nn.Module, data: Dataset) -> Finding:
    """Test held-out rows against the learned score, at one law or at one small level."""
    d = int(np.prod(data.shape))
    if d > MOST or (data.y is not None and run.recipe.label_dropout < 1):
        return skipped("stein", "held-out rows of several classes, or in too many dimensions for one kernel")
    if len(data.held_out_rows) < ROWS:
        return skipped("stein", f"{len(data.held_out_rows)} rows are held out, {ROWS} are asked")
    rows = np.random.default_rng(0).permutation(data.held_out_rows)[:ROWS]
    if run.recipe.at_all_levels:
        noise = run.noise
        t = noise.time_at(torch.tensor(RATIO, dtype=torch.float64))
        dtype = next(model.parameters()).dtype
        generator = torch.Generator().manual_seed(5)
        x = data.x_scaled(rows).to(dtype)
        x = noise.perturb(x, t, torch.randn(x.shape, generator=generator, dtype=dtype))
        score, said = at(given(model, None), t), f"noised to σ/α = {RATIO:g}"
    else:
        x, score, _ = one_law(run, model, data, rows, 5)
        dtype, said = x.dtype, f"with noise {run.sigma:.3g}"

    def flat(u: Tensor) -> Tensor:
        return score(u.to(dtype).reshape(-1, *data.shape)).flatten(1).double()

    replicates = int(2 / LEVEL)
    found = kernel_stein_test(flat, x.flatten(1).double().numpy(), replicates=replicates, random_state=0)
    return judged(
        "stein",
        found.p_value >= LEVEL,
        f"KSD² of {len(x)} held-out rows {said} = {found.statistic:.3g}, p = {found.p_value:.2g} (tolerated: "
        f"{LEVEL:.1g})",
        "Held-out rows are not from the law with this score.",
        more(patient),
    )
