"""`ScoreDensity`: the scikit-learn face of a run, for arrays, images and data frames."""

from scorefield.neural.density import ScoreDensity

__all__ = ["ScoreDensity"]
