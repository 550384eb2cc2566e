"""The device mesh and which array dimension lies on which of its axes."""

from dpojax.parallel.compiler import compiler_options
from dpojax.parallel.mesh import make_mesh
from dpojax.parallel.processes import check_one_process
from dpojax.parallel.rules import batch_shardings, replicated, state_shardings

__all__ = ["batch_shardings", "check_one_process", "compiler_options", "make_mesh", "replicated", "state_shardings"]
