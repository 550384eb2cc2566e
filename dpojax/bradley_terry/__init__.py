"""Bradley-Terry strengths of items compared in pairs, with honest uncertainty. NumPy and SciPy suffice.

`fit` takes comparisons and gives strengths; what else is asked of a fit is a function of it:

>>> from dpojax.bradley_terry import fit, leaderboard, standard_errors
>>> found = fit([("a", "b"), ("b", "c"), ("c", "a"), ("a", "c")])
>>> [row["item"] for row in leaderboard(found)]
['a', 'b', 'c']
"""

from dpojax.bradley_terry.columns import similar_labels
from dpojax.bradley_terry.comparisons import Comparisons
from dpojax.bradley_terry.existence import NoEstimate, connectivity
from dpojax.bradley_terry.fitting import BradleyTerryFit, fit
from dpojax.bradley_terry.likelihood import Normal, Pseudo
from dpojax.bradley_terry.rankings import PlackettLuceFit, plackett_luce
from dpojax.bradley_terry.ratings import Leaderboard, goodness_of_fit, leaderboard
from dpojax.bradley_terry.resampling import Bootstrap, bootstrap
from dpojax.bradley_terry.stream import read_comparisons
from dpojax.bradley_terry.suggestions import Suggestion, suggest
from dpojax.bradley_terry.uncertainty import (
  Contrast,
  contrast,
  covariance,
  parameter_table,
  profile_interval,
  standard_errors,
)

__all__ = [
  "Bootstrap",
  "BradleyTerryFit",
  "Comparisons",
  "Contrast",
  "Leaderboard",
  "NoEstimate",
  "Normal",
  "PlackettLuceFit",
  "Pseudo",
  "Suggestion",
  "bootstrap",
  "connectivity",
  "contrast",
  "covariance",
  "fit",
  "goodness_of_fit",
  "leaderboard",
  "parameter_table",
  "plackett_luce",
  "profile_interval",
  "read_comparisons",
  "similar_labels",
  "standard_errors",
  "suggest",
]
