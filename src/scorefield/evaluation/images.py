"""Images: what a classifier sees in them, and distances on features, beside the same for training images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from scorefield.evaluation.features import Features, principal_components
from scorefield.evaluation.row import Row
from scorefield.evaluation.rows import distance_rows, support_rows
from scorefield.evaluation.sets import Sets, scaled
from scorefield.metrics import Estimate, class_agreement, inception_score, kernel_distance
from scorefield.runs import Run

COMPONENTS = 32


def image_rows(run: Run, sets: Sets, features: Features | None, generator: torch.Generator) -> list[Row]:
    """Class agreement, inception score, distances and supports.

    Without features: 32 principal components of the training images (fewer where there are few rows or pixels), and a
    support vector machine on 64 as the classifier.

    Raises:
        ValueError: fewer samples, training rows or rows to judge by than twice the features.
    """
    parts = (sets.samples, sets.train, sets.held_out)
    least = min(len(part) for part in parts)
    if features is None:
        learned = scaled(run, sets.learned)
        components = max(1, min(COMPONENTS, least // 2, learned.shape[1]))
        features = principal_components(learned, components, run.dataset.info.scaling)
    elif least < 2 * features.dimension:
        raise ValueError(
            f"count and the rows to judge by must be >= {2 * features.dimension}, twice the {features.dimension} "
            f"features of {features.name}; got {len(sets.samples)} samples, {len(sets.held_out)} {sets.against} and "
            f"{len(sets.train)} training rows; draw more (-n), judge by more rows (--against), or use fewer features"
        )
    seen = [features.of(part) for part in parts]
    samples, train, held = (values for values, _ in seen)
    rows = _class_rows(run, sets, features, [p for _, p in seen], generator)
    frechet, kernel = f"Fréchet distance on {features.title}", "kernel distance"
    if features.standard:
        frechet, kernel = "FID", "KID"
    rows += distance_rows(samples, train, held, frechet, generator, strata=sets.strata)
    mmd, mmd_real = (kernel_distance(x, held) for x in (samples, train))
    rows.append(Row(kernel, mmd, mmd_real, f"on {features.title}; 0 within its error is perfect"))
    return rows + support_rows(samples, train, held, generator)


def _class_rows(
    run: Run, sets: Sets, features: Features, probabilities: list[Tensor | None], generator: torch.Generator
) -> list[Row]:
    ours, _, held = probabilities
    if features.classes and ours is not None and held is not None:
        rows, name = [], features.title
        if sets.asked is not None and features.classes == run.classes:
            agreement = class_agreement(ours.argmax(1), sets.asked)
            labels = sets.held_out_labels
            real = class_agreement(held.argmax(1), labels) if labels is not None else None
            rows.append(Row("class agreement", agreement, real, f"the classifier of {name} sees the class asked for"))
        size = min(len(ours), len(held))
        splits = min(10, max(1, size // 100))  # the score of few rows is far too low
        score, real = (inception_score(p[:size], splits=splits, generator=generator) for p in (ours, held))
        reading = f"by the classifier of {name}; higher is better, blind to copies"
        return [*rows, Row("inception score", score, real, reading)]
    if sets.asked is None or sets.learned_labels is None or len(sets.learned_labels.unique()) < 2:
        return []
    return [_support_vectors(run, sets, sets.asked)]


def _support_vectors(run: Run, sets: Sets, asked: Tensor) -> Row:
    """Class agreement by a support vector machine on principal components of the training images."""
    from sklearn.svm import SVC

    learned = scaled(run, sets.learned)
    components = principal_components(learned, min(64, *learned.shape), run.dataset.info.scaling)
    labels = sets.learned_labels
    machine = SVC(C=10.0, gamma="scale").fit(components.of(sets.learned)[0].numpy(), labels)

    def agreement(x: np.ndarray, asked: Tensor) -> Estimate:
        return class_agreement(torch.from_numpy(machine.predict(components.of(x)[0].numpy())), asked)

    real = agreement(sets.held_out, sets.held_out_labels) if sets.held_out_labels is not None else None
    return Row("class agreement", agreement(sets.samples, asked), real, "a classifier sees the class asked for")
