"""The command that fits a statistical model: fit."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

from scorefield.cli.codes import DONE
from scorefield.data import read_columns
from scorefield.settings import FitOptions


def fit(options: FitOptions) -> int:
    """Fit a statistical model and print it as a table."""
    from scorefield.estimators.names import named

    try:
        import pandas as pd
    except ModuleNotFoundError as error:
        raise ValueError("fit needs pandas for the names of columns: pip install 'scorefield[data]'") from error
    estimator: Any = named(options.model, options.domain)
    wanted = None if options.columns is None else [name.strip() for name in options.columns.split(",")]
    x, names = read_columns(options.data, wanted)
    table = pd.DataFrame(x, columns=list(names))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimator.fit(table)
        if hasattr(estimator, "pattern_") and not hasattr(estimator, "covariance_"):
            estimator = estimator.set_params(pattern=estimator.pattern_).fit(table)
            warnings.warn("the graph was chosen on these very rows, which the intervals do not know", stacklevel=1)
    summary, said = estimator.summary(options.level), [str(warning.message) for warning in caught]
    content = {"model": options.model, "data": options.data, **summary.to_dict(), "warnings": said}
    written = json.dumps(content, indent=2, ensure_ascii=False)
    if options.json:
        print(written)
    else:
        print(summary)
        for text in said:
            print(f"warning: {text}", file=sys.stderr)
    if options.output is not None:
        Path(options.output).write_text(written + "\n")
        print(f"written to {options.output}", file=sys.stderr)
    return DONE
