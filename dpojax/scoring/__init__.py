"""What models say of given text, packed: log-probs, rewards and the exact KL between two policies.

All of them are one loop (`dpojax.scoring.packed`) around one function of (params, rows). Every row given
is scored, in its order, or an error says which could not be; with a mesh, parameters and rows are shared
by its devices.
"""

from dpojax.scoring.divergence import Divergence, measure_divergence
from dpojax.scoring.logps import Scores, score_answers, score_tokens
from dpojax.scoring.rewards import measure_normalisation, reward_scores

__all__ = [
  "Divergence",
  "Scores",
  "measure_divergence",
  "measure_normalisation",
  "reward_scores",
  "score_answers",
  "score_tokens",
]
