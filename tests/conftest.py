"""Strict numerics for every test: no silent rank or dtype promotion."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the time of most tests is compilation, and this halves it.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"

import hypothesis
import jax

# A deadline for one example measures how busy the machine is.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
