"""A run judged: its samples beside held-out data, each figure with its error and the same figure for real data.

The real data's figures are those of as many training rows in the samples' place, so that what a sample size does to a
figure stands beside it. Images: agreement of a classifier with the class asked for, inception score, Fréchet and kernel
distances on named features, precision, recall, density and coverage, bits per dimension. Vectors: maximum mean
discrepancy, a two-sample test, the same of supports, and the Fisher divergence where the truth is known. Both: three
tests for copies of training rows. A run that learned one law also shows its objective on held-out rows.
"""

from scorefield.evaluation.classifier import accuracy_of, learn_features
from scorefield.evaluation.features import Features, LearnedFrom, open_features
from scorefield.evaluation.judge import evaluate
from scorefield.evaluation.levels import loss_by_level
from scorefield.evaluation.row import Row

__all__ = [
    "Features",
    "LearnedFrom",
    "Row",
    "evaluate",
    "learn_features",
    "loss_by_level",
    "open_features",
    "accuracy_of",
]
