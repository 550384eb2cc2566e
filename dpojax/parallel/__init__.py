"""The device mesh and which array dimension lies on which of its axes."""

from dpojax.parallel.compiler import compiler_options
from dpojax.parallel.mesh import make_mesh
from dpojax.parallel.rules import batch_shardings, replicated, state_shardings

__all__ = ["batch_shardings", "compiler_options", "make_mesh", "replicated", "state_shardings"]
