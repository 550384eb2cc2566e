"""The shapes that annotations state are checked in tests: see `tests/conftest.py`."""

import jax.numpy as jnp
import numpy as np
import pytest

from dpojax.losses.dpo import dpo
from dpojax.objectives.advantages import rloo
from dpojax.ops.logprobs import scored_logps
from dpojax.ops.norm import rms_norm


@pytest.mark.parametrize(
  "call",
  [
    lambda: rms_norm(jnp.ones((2, 3)), jnp.ones(4), 1e-3),
    lambda: scored_logps(jnp.ones((5, 8)), jnp.ones((11, 8)), np.zeros(4, np.int32), chunk=2, precision="float32"),
    lambda: scored_logps(jnp.ones((5, 8)), jnp.ones((11, 8)), np.zeros(5), chunk=2, precision="float32"),
    lambda: rloo(np.ones(6)),
    lambda: dpo.__wrapped__(*jnp.ones((4, 3, 1))),
  ],
  ids=["another width", "another number", "floats for ids", "without groups", "a column of values"],
)
def test_what_does_not_fit_its_annotation_is_an_error(call):
  with pytest.raises(TypeError, match="Type-check error"):
    call()
