"""What the generated tests of the estimators share: quiet settings, and an end in a finite fit or a way out."""

import numpy as np
from hypothesis import HealthCheck

QUIET = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}
WAY_OUT = ("must", "need", "give", "drop", "rescale", "minimum of", "infinity", "NaN")


def finite_graph_or_refused(kind, table):
    """A graphical model of this kind ends in finite numbers, or in a ValueError that names the way out."""
    x, w, how = table
    try:
        fit = kind(**how).fit(x, sample_weight=w)
    except ValueError as error:
        assert any(word in str(error) for word in WAY_OUT), error
        return
    for value in (fit.theta_, fit.precision_, fit.objective_, getattr(fit, "covariance_", 0.0)):
        assert np.isfinite(value).all()
