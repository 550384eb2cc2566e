"""How many processes a run may have: one, for now."""

import jax

from dpojax.errors import ConfigError


def check_one_process() -> None:
  """Returns in a run of one process; initialises JAX's devices.

  Raises:
    ConfigError: `jax.distributed` has joined several processes to one run.
  """
  count = jax.process_count()
  if count > 1:
    raise ConfigError(
      f"this run has {count} processes, and dpojax works in one for now: start it once "
      "(it uses every device of its machine)"
    )
