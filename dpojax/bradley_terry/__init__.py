"""Bradley-Terry strengths of items compared in pairs, with honest uncertainty."""

from dpojax.bradley_terry.comparisons import Comparisons
from dpojax.bradley_terry.fit import BradleyTerryFit, NoEstimate, Normal, Pseudo, fit

__all__ = ["BradleyTerryFit", "Comparisons", "NoEstimate", "Normal", "Pseudo", "fit"]
