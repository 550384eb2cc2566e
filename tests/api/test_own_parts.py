"""Losses, models and rewards of the user's own."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpojax
from dpojax import losses
from dpojax.config.record import read_config
from dpojax.errors import CheckpointError, ConfigError
from dpojax.losses.spec import loss_spec
from dpojax.training.run_reference import beta_of_run
from tests.api.tiny import SHORT, make_rows, policy  # noqa: F401
from tests.losses.own_losses import registered  # noqa: F401

ROWS = make_rows()
OPTIONS = {"batch_size": 8, "steps": 4, "quiet": True}


def define(power):
  @losses.register
  def root_hinge(chosen, rejected, reference_chosen, reference_rejected, *, beta=0.1, power=power):
    margin = beta * (chosen - reference_chosen - rejected + reference_rejected)
    return jnp.maximum(0.0, 1 - margin) ** power

  return root_hinge


@pytest.mark.slow
def test_an_own_loss_has_options_trains_and_is_told_by_its_folder(tmp_path, policy):  # noqa: F811
  define(power=2.0)
  with dpojax.DPO(
    policy, ROWS, loss="root_hinge(beta=0.5, power=3)", workdir=tmp_path, settings=SHORT, learning_rate=1e-2, **OPTIONS
  ) as run:
    assert run.hyper["power"] == 3 and run.evaluate()["loss"] == 1
    run.train()
    assert run.evaluate()["loss"] < 1
  del losses.LOSSES["root_hinge"]
  spec = read_config(tmp_path).loss_spec  # as a process does that never saw the function
  assert spec.describe() == "root_hinge, beta 0.5" and spec.reads("reference")
  assert beta_of_run(tmp_path) == 0.5
  with pytest.raises(ConfigError, match="root_hinge is known from a run's folder"):
    spec.losses[0].function([0.0], [0.0], [0.0], [0.0])
  file = tmp_path / "losses.json"
  assert json.loads(file.read_text())["root_hinge"]["options"] == {"beta": 0.1, "power": 2.0}
  file.write_text("{}")
  with pytest.raises(CheckpointError, match=r"losses.json"):
    read_config(tmp_path)


@pytest.mark.slow
def test_a_loss_that_is_defined_again_is_another(policy):  # noqa: F811
  found = []
  for power in (1.0, 2.0):
    with dpojax.DPO(policy, ROWS, loss=define(power), settings=SHORT, **OPTIONS) as run:
      run.hyper["beta"] = 0.0  # the loss is then 1, its slope beta * power
      run.hyper["beta"] = 1e-3
      run.train(1)
      found.append(run.metrics[-1]["grad_norm"])
  assert found[1] == pytest.approx(2 * found[0], rel=1e-3)
  assert loss_spec("dpo") == loss_spec("dpo", beta=0.3)


def test_a_bad_loss_is_refused():
  with pytest.raises(ConfigError, match="dpo is part of dpojax"):

    @losses.register
    def dpo(chosen, rejected):
      return chosen

  with pytest.raises(ConfigError, match=r"parameter choosen.*did you mean chosen"):

    @losses.register
    def mine(choosen, rejected):
      return choosen


@dataclasses.dataclass(frozen=True)
class BigramConfig:
  vocab_size: int
  max_positions: int = 0

  def to_dict(self):
    return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Bigram(dpojax.ScoringModel):
  """The next token depends on the last one alone: logits are a row of one table."""

  config: BigramConfig

  def hidden(self, params, rows):
    return jax.nn.one_hot(rows.tokens, self.config.vocab_size, dtype=jnp.float32)

  def head(self, params):
    return params["table"]


@pytest.mark.slow
def test_an_own_model_trains_is_saved_and_read(tmp_path, policy):  # noqa: F811
  size = policy.tokenizer.vocab_size
  params = {"table": np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)}
  bigram = dpojax.LoadedModel(Bigram(BigramConfig(size)), params, policy.tokenizer)
  normalised = params["table"].T - np.log(np.exp(params["table"].T).sum(axis=1, keepdims=True))
  prompt, answer = (policy.tokenizer.encode_batch([ROWS[0][name]])[0] for name in ("prompt", "chosen"))
  ids = [*prompt, *answer, policy.tokenizer.eos_id]
  expected = sum(normalised[a, b] for a, b in zip(ids[len(prompt) - 1 : -1], ids[len(prompt) :], strict=True))
  np.testing.assert_allclose(dpojax.score(bigram, ROWS[:1])[0][0], expected, rtol=1e-5)
  with dpojax.DPO(
    bigram, ROWS, workdir=tmp_path, learning_rate=0.1, settings={"batch.row_length": 48}, **OPTIONS
  ) as run:
    assert run.evaluate()["loss"] == pytest.approx(np.log(2), abs=1e-6)
    run.train(2)
    run.save()
  with dpojax.DPO(
    bigram, ROWS, workdir=tmp_path, learning_rate=0.1, settings={"batch.row_length": 48}, **OPTIONS
  ) as run:
    assert run.step == 2
    run.train()
    assert run.evaluate(ROWS)["loss"] < 0.68
    table = np.asarray(run.trainer.params["table"])
  np.testing.assert_array_equal(dpojax.load(str(tmp_path), model=bigram.model).params["table"], table)
  with pytest.raises(ConfigError, match=r"a class of your own, Bigram.*model=\.\.\."):
    dpojax.load(str(tmp_path))


@pytest.mark.slow
def test_own_rewards_watch_and_train(policy):  # noqa: F811
  asked = []

  def ends_in(prompts, answers):
    asked.append((prompts[0], len(answers)))
    return [float(len(answer.split())) for answer in answers]

  settings = SHORT | {"monitor.prompts": 4, "monitor.max_tokens": 4, "data.eval_fraction": 0.2}
  with dpojax.DPO(policy, ROWS, rewards={"words": ends_in, "length": "length"}, settings=settings, **OPTIONS) as run:
    run.train(1)
    look = next(row for row in run.metrics if row["split"] == "policy")
    assert 0 <= look["reward/words"] <= 4 and "reward/length" in look
    assert isinstance(asked[0][0], str) and asked[0][1] == 4
  prompts = [row["prompt"] for row in ROWS]
  with dpojax.PPO(
    policy, prompts, ends_in, method="rloo", samples=2, max_tokens=4, batch_size=4, steps=4, quiet=True, settings=SHORT
  ) as run:
    run.train()
    rollout = next(row for row in run.metrics if row["split"] == "rollout")
    assert 0 <= rollout["objective/score"] <= 4


@pytest.mark.long
def test_a_reward_model_of_a_run_trains_a_policy(policy):  # noqa: F811
  with dpojax.RewardModel(policy, ROWS, settings=SHORT_REWARD, learning_rate=1e-2, **OPTIONS) as run:
    run.train()
    reward = run.policy
    assert run.evaluate()["loss"] != pytest.approx(np.log(2))
  prompts = [row["prompt"] for row in ROWS]
  with dpojax.PPO(
    policy, prompts, reward, samples=2, max_tokens=4, batch_size=4, steps=4, quiet=True, settings=SHORT
  ) as run:
    assert run.train().reason == "finished"
    first = next(row for row in run.metrics if row["split"] == "train")
    assert first["policy/ratio"] == 1 and "value/loss" in first


SHORT_REWARD = {key: value for key, value in SHORT.items() if not key.startswith("monitor.")}
