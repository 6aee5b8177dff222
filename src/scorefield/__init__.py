"""scorefield: learn the score of a distribution from samples, and use it."""

__version__ = "0.1.0"
