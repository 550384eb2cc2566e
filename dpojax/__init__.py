"""Learning from pairwise comparisons in JAX: Bradley-Terry, DPO and what lies between."""

__version__ = "0.1.0"
