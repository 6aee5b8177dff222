r"""A run or data examined before and after training: what is wrong, why, by what evidence, and what mends it.

Each check compares what it measured, with its error, with what is tolerated; where chance plays a part it is a test at
the level `LEVEL`, so that a healthy patient is told of anything by chance at most once in `1/FALSE_ALARMS` times.
"""

from __future__ import annotations

from scorefield.doctor.drawing import How, examine_samples
from scorefield.doctor.finding import CHECKS, FALSE_ALARMS, LEVEL, PART, Finding, harm, skipped
from scorefield.doctor.law import examine_law
from scorefield.doctor.levels import examine_levels
from scorefield.doctor.patient import Patient, admit
from scorefield.doctor.rows import examine_rows
from scorefield.doctor.schedule import examine_noise
from scorefield.doctor.stein import examine_fit
from scorefield.settings import DataSettings

__all__ = ["CHECKS", "FALSE_ALARMS", "Finding", "How", "LEVEL", "examine", "harm"]


def examine(
    target: str,
    *,
    root: str | None = None,
    label_column: str | None = None,
    count: int = 10_000,
    how: How | None = None,
) -> list[Finding]:
    """Examine a run folder, whole, untrained or damaged, or data that nothing was learned from yet.

    Args:
        target: a run folder, or what `scorefield train` takes: a file, a folder of images, or a name.
        root: folder with the files of a named data set.
        label_column: name of the .csv column that holds labels.
        count: how many samples to draw from a toy density.
        how: how samples are drawn; as `scorefield sample` does when None.

    Returns:
        one finding for each check that could be made, healthy or not, in the order of `CHECKS`.

    Raises:
        ValueError: the target is neither, or its data are refused.
    """
    how = how or How()
    with admit(target, DataSettings(target, root, label_column, count=count), how.seed) as patient:
        return examine_patient(patient, how)


def examine_patient(patient: Patient, how: How) -> list[Finding]:
    """Examine what was opened: first the data, then the noise, then what was learned, then what is drawn.

    Where a fault leaves nothing to draw from, no samples are drawn.
    """
    order = list(PART)
    return sorted(_examined(patient, how), key=lambda finding: order.index(finding.name))


def _examined(patient: Patient, how: How) -> list[Finding]:
    found, data, run = list(patient.trouble), patient.dataset, patient.run
    if data is None:
        return found
    found += examine_rows(patient, data)
    if patient.noise is not None:
        found += examine_noise(patient, patient.noise, data)
    if run is None:
        return found
    if run.recipe.classifier:
        return [*found, skipped("weights", "the run holds a classifier, which has no score; see scorefield evaluate")]
    model = run.load_model()
    if patient.noise is not None:
        found += examine_levels(patient, run, patient.noise, model, data)
    else:
        found += examine_law(patient, run, model, data)
    if any(finding.severity == "fault" for finding in found):
        return found
    return [*found, examine_fit(patient, run, model, data), *examine_samples(patient, run, model, data, how)]
