"""Policy-gradient losses, one value a token: pure functions of arrays of any one shape, differentiable in the first.

Log-probs are in nats, of the tokens that were drawn, all at the temperature of sampling; `behaviour_logp`, `advantage`,
`old_value` and `value_target` are constants of a roll-out. Nothing is reduced here: whoever calls says whether tokens,
answers or a constant divide the sum (`objectives.policy_gradient`).
"""

import jax
import jax.numpy as jnp

from dpojax.errors import ShapeError
from dpojax.types import Array

LARGEST_LOG_RATIO = 20.0  # beyond it exp overflows no float, but a product with it does


def log_ratio(logp: Array, behaviour_logp: Array) -> jax.Array:
  """log of the importance weight, clamped to [-20, 20] nats; its gradient is 0 beyond.

  >>> float(log_ratio([-1.0], [-1.5])[0])
  0.5
  """
  logp, behaviour_logp = _alike(logp=logp, behaviour_logp=behaviour_logp)
  return jnp.clip(logp - behaviour_logp, -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)


def clipped_policy_loss(
  logp: Array, behaviour_logp: Array, advantage: Array, *, clip: Array | float = 0.2, dual_clip: Array | float = jnp.inf
) -> jax.Array:
  """PPO's: max(-A rho, -A clip(rho, 1 - clip, 1 + clip)), and for A < 0 at most -A dual_clip.

  With rho = exp(logp - behaviour_logp). At rho = 1 the value is -A and the gradient by logp is -A.

  >>> clipped_policy_loss([0.0, 1.0], [0.0, 0.0], [2.0, 2.0]).tolist()
  [-2.0, -2.4000000953674316]

  Args:
    dual_clip: above 1; infinity: none.

  References:
    Schulman et al. 2017, arXiv:1707.06347, Eq. 7; the second bound: Ye et al. 2020, arXiv:1912.09729, Eq. 5.
  """
  logp, behaviour_logp, advantage = _alike(logp=logp, behaviour_logp=behaviour_logp, advantage=advantage)
  ratio = jnp.exp(log_ratio(logp, behaviour_logp))
  loss = jnp.maximum(-advantage * ratio, -advantage * jnp.clip(ratio, 1 - clip, 1 + clip))
  return jnp.where(advantage < 0, jnp.minimum(loss, -advantage * dual_clip), loss)


def clipped_value_loss(value: Array, old_value: Array, value_target: Array, *, clip: Array | float = 0.2) -> jax.Array:
  """1/2 max((V - R)^2, (V_old + clip(V - V_old, -clip, clip) - R)^2), in squared units of reward.

  Source: lm-human-preferences (Ziegler et al. 2019), as in lm-human-preference-details `train_policy_jax.py`.
  """
  value, old_value, value_target = _alike(value=value, old_value=old_value, value_target=value_target)
  clipped = old_value + jnp.clip(value - old_value, -clip, clip)
  return 0.5 * jnp.maximum(jnp.square(value - value_target), jnp.square(clipped - value_target))


def kl_k1(logp: Array, reference_logp: Array) -> jax.Array:
  """log p - log q of the token drawn from p: without bias for KL(p || q), and what a reward subtracts."""
  logp, reference_logp = _alike(logp=logp, reference_logp=reference_logp)
  return logp - reference_logp


def kl_k3(logp: Array, reference_logp: Array) -> jax.Array:
  """q / p - 1 - log(q / p) of the token drawn from p: its mean is KL(p || q), its gradient that of KL(q || p).

  For an estimate or, as GRPO has it, a loss; never a reward (docs/ppo.md).

  References:
    Schulman 2020, "Approximating KL divergence"; Shao et al. 2024, arXiv:2402.03300, Eq. 4.
  """
  logp, reference_logp = _alike(logp=logp, reference_logp=reference_logp)
  less = jnp.clip(reference_logp - logp, -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
  return jnp.expm1(less) - less


def _alike(**arrays: Array) -> list[jax.Array]:
  made = {name: jnp.asarray(array) for name, array in arrays.items()}
  shapes = {name: list(array.shape) for name, array in made.items()}
  if len({array.shape for array in made.values()}) > 1:
    raise ShapeError(f"arrays of one shape are wanted, one number a token, got {shapes}")
  return list(made.values())
