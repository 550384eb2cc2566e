"""Losses of the user's own: what they may take, and that nothing of them is left out or read as something else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpojax import losses
from dpojax.errors import ConfigError, ShapeError
from dpojax.losses.own import register_absent
from dpojax.losses.spec import loss_spec
from dpojax.models.reward_model import RewardModel
from dpojax.objectives.preference import Preference
from dpojax.objectives.reward_model import RewardObjective
from dpojax.training.step import accumulate
from dpojax.types import Answers
from tests.losses.own_losses import registered  # noqa: F401
from tests.training.tiny import MODEL, tiny_batches, tiny_params


def test_what_a_function_is_wrapped_in_is_part_of_the_loss():
  def twice(function):
    return functools.wraps(function)(lambda *args, **options: 2 * function(*args, **options))

  @losses.register
  @twice
  def doubled(chosen, rejected):
    return chosen - rejected

  assert losses.get_loss("doubled").formula(chosen=jnp.ones(1), rejected=jnp.zeros(1)) == 2

  @jax.custom_jvp
  def flat(chosen, rejected):
    return chosen - rejected

  flat.defjvp(lambda primals, tangents: (primals[0] - primals[1], jnp.zeros(1)))
  losses.register(flat)
  slope = jax.grad(lambda x: losses.get_loss("flat").formula(chosen=x, rejected=jnp.zeros(1)).sum())
  assert slope(jnp.ones(1)) == 0


def test_what_is_read_beside_the_other_is_given():
  @losses.register
  def of_the_rejected(rejected, reference_rejected, rejected_kl):
    return rejected - reference_rejected + rejected_kl

  assert losses.get_loss("of_the_rejected").reads == {"reference", "token_kl"}


@pytest.mark.slow
@pytest.mark.parametrize("values", [jnp.mean, lambda x: x[:, None], jnp.diag, lambda x: None])
def test_what_is_no_number_an_example_is_refused(values):
  @losses.register
  def shaped(chosen, rejected):
    return values(chosen - rejected)

  batch = tiny_batches()(0)
  objective = Preference(MODEL, loss_spec("shaped"))
  with pytest.raises(ShapeError, match=r"shaped: it gives .* must give one number an example"):
    jax.eval_shape(lambda params: accumulate(objective, params, {}, batch, {"beta": jnp.float32(1)})[:3], tiny_params())


@pytest.mark.slow
def test_empty_slots_leave_the_gradient_of_a_mean_over_tokens_finite():
  @losses.register
  def a_token(chosen, rejected, chosen_length, rejected_length):
    per_token = [logp / n.astype(jnp.float32) for logp, n in ((chosen, chosen_length), (rejected, rejected_length))]
    return jnp.log1p(jnp.exp(per_token[1] - per_token[0]))

  batch = tiny_batches(size=3)(0)
  assert (np.asarray(batch.example_weight) == 0).any()

  def step(name):
    objective, hyper = Preference(MODEL, loss_spec(name)), {"beta": jnp.float32(1), "gamma": jnp.float32(0)}
    return jax.jit(lambda params: accumulate(objective, params, {}, batch, hyper)[:2])(tiny_params())

  own, simpo = step("a_token"), step("simpo")
  np.testing.assert_allclose(own[0], simpo[0], rtol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), own[1], simpo[1])


@pytest.mark.slow
def test_a_reward_loss_is_given_what_it_takes():
  @losses.register(of_rewards=True)
  def lead(chosen, rejected):
    return rejected - chosen

  batch = tiny_batches()(0)
  model = RewardModel(MODEL)
  objective = RewardObjective(model, loss_spec("lead"))
  found = jax.eval_shape(
    lambda params: accumulate(objective, params, {}, batch, {"margin_scale": jnp.float32(0)})[:2],
    model.init(jax.random.key(0)),
  )
  assert found[0].shape == ()


def test_each_folder_says_for_itself_what_a_loss_takes_whose_code_is_not_at_hand():
  about = {"data": ["chosen", "rejected"], "answers": "pair", "of_rewards": False}
  for options in ({"beta": 0.1}, {"beta": 0.1, "power": 2.0}):
    register_absent({"told": about | {"options": options}})
    assert losses.get_loss("told").options == tuple(options)

  @losses.register
  def told(chosen, rejected):
    return rejected - chosen

  register_absent({"told": about | {"options": {"beta": 0.1}}})
  assert losses.get_loss("told").formula(jnp.zeros(1), jnp.ones(1)) == 1


@pytest.mark.parametrize(
  "function, options, said",
  [
    (lambda: functools.partial(losses.ipo, beta=0.3), {}, "needs a name that `loss.name` can say, got 'partial'"),
    (lambda: of_all, {}, "parameter arrays cannot be given by name"),
    (lambda: of_a_single, {}, "parameter logp is no data that such a loss is given"),
    (
      lambda: of_a_single,
      {"answers": Answers.UNPAIRED},
      "parameter learning_rate has the name of a number of dpojax's own",
    ),
    (lambda: of_a_margin, {}, r"margin is there under some values of loss.margin_scale only; give it the default None"),
    (
      lambda: of_a_margin,
      {"answers": Answers.UNPAIRED, "of_rewards": True},
      "there are no losses of unpaired answers of",
    ),
  ],
)
def test_what_no_stage_could_give_is_refused(function, options, said):
  with pytest.raises(ConfigError, match=said):
    losses.register(function(), **options)


def of_all(*arrays):
  return arrays[0]


def of_a_single(logp, desirable, *, learning_rate=0.5):
  return logp * desirable * learning_rate


def of_a_margin(chosen, rejected, margin):
  return chosen - rejected - margin
