"""What scores say about preference pairs and rankings: pure functions of NumPy arrays, no disk, no model."""

from dpojax.evaluation.evaluate import evaluate
from dpojax.evaluation.scored_pairs import ScoredPairs, ScoredRow, compare

__all__ = ["ScoredPairs", "ScoredRow", "compare", "evaluate"]

Comparisons = ScoredPairs  # its earlier name
