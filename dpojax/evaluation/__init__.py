"""What scores say about preference pairs and rankings: pure functions of NumPy arrays, no disk, no model."""

from dpojax.evaluation.comparisons import Comparisons, ScoredRow, compare
from dpojax.evaluation.evaluate import evaluate

__all__ = ["Comparisons", "ScoredRow", "compare", "evaluate"]
