"""Bradley-Terry strengths of items compared in pairs, with honest uncertainty."""

from dpojax.bradley_terry.comparisons import Comparisons
from dpojax.bradley_terry.fit import fit
from dpojax.bradley_terry.plackett_luce import PlackettLuceFit, plackett_luce
from dpojax.bradley_terry.priors import NoEstimate, Normal, Pseudo
from dpojax.bradley_terry.result import BradleyTerryFit
from dpojax.bradley_terry.stream import read_comparisons

__all__ = [
  "BradleyTerryFit",
  "Comparisons",
  "NoEstimate",
  "Normal",
  "PlackettLuceFit",
  "Pseudo",
  "fit",
  "plackett_luce",
  "read_comparisons",
]
