"""The preference objective: two passes are one, a cache is a live reference, what moves moves as its paper says."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from dpojax.config.load import load_config
from dpojax.config.schema import OptimizerSettings, ParallelSettings
from dpojax.losses import LOSSES
from dpojax.losses.spec import loss_spec
from dpojax.objectives.preference import Preference
from dpojax.parallel import make_mesh
from dpojax.scoring.logps import logps_of_rows
from dpojax.scoring.packed import Scorer
from dpojax.sweeps.stages import run
from dpojax.training.optimizer import make_optimizer
from dpojax.training.runlog import read_metrics
from dpojax.training.step import accumulate, place_hyper
from dpojax.training.trainer import Trainer
from dpojax.types import Answers
from tests.tolerances import assert_gradients_close
from tests.training.runs import state_digest, timeless_metrics, write_config
from tests.training.tiny import MODEL, tiny_batches, tiny_dataset, tiny_params, train, with_opponents

SUMMED = tuple(
  name for name, loss in LOSSES.items() if loss.answers is Answers.PAIR and not (loss.coupled or loss.of_rewards)
)
OPTIMIZER = OptimizerSettings(learning_rate=3e-3, schedule="constant")
MESH = make_mesh(ParallelSettings())


class InTwoPasses(Preference):
  """Takes the path of coupled losses whatever its losses are."""

  @property
  def coupled(self):
    return True


def moved(scale=0.03):
  keys = iter(jax.random.split(jax.random.key(9), 100))
  return jax.tree.map(lambda x: x + scale * jax.random.normal(next(keys), x.shape, x.dtype), tiny_params())


def spec_of(*names):
  return loss_spec("+".join(names), beta=0.3)


def hyper_for(names):
  return place_hyper(dict(spec_of(*names).hyper), MESH)


def whole_step(objective, batch, hyper, frozen):
  return jax.device_get(jax.jit(lambda p, b: accumulate(objective, p, frozen, b, hyper)[:3])(moved(), batch))


def assert_same(one, other):
  np.testing.assert_allclose(one[0], other[0], rtol=1e-6)
  for name in one[2]:
    np.testing.assert_allclose(other[2][name], one[2][name], rtol=2e-5, atol=1e-5, err_msg=name)
  assert_gradients_close(other[1], one[1])


@pytest.mark.long
def test_two_passes_give_what_one_pass_gives():
  batch, hyper = with_opponents(tiny_batches(rows=2)(0)), hyper_for(SUMMED)
  assert int(batch.num_groups) > 1
  frozen = tiny_params()
  assert_same(
    whole_step(Preference(MODEL, spec_of(*SUMMED)), batch, hyper, frozen),
    whole_step(InTwoPasses(MODEL, spec_of(*SUMMED)), batch, hyper, frozen),
  )


@pytest.mark.slow
def test_a_cached_reference_gives_what_a_live_one_gives():
  names = tuple(name for name in SUMMED if "token_kl" not in LOSSES[name].reads)
  batch, hyper, frozen = with_opponents(tiny_batches(rows=2)(0)), hyper_for(names), tiny_params()
  cached = dataclasses.replace(batch, reference_logp=Scorer(logps_of_rows, MODEL, frozen)(batch))
  objective = Preference(MODEL, spec_of(*names))
  assert_same(whole_step(objective, batch, hyper, frozen), whole_step(objective, cached, hyper, {}))


@pytest.mark.slow
def test_no_reference_is_an_error_where_one_is_read():
  batch = tiny_batches()(0)
  with pytest.raises(ValueError, match="no reference"):
    Preference(MODEL).forward(tiny_params(), {}, batch.group(0))
  cached = dataclasses.replace(batch, reference_logp=np.zeros(batch.target.shape, np.float32))
  with pytest.raises(ValueError, match="tdpo1 reads the reference's whole distribution"):
    Preference(MODEL, spec_of("tdpo1")).forward(tiny_params(), {}, cached.group(0))


@pytest.mark.slow
def test_a_sum_is_the_sum_of_its_weighted_parts():
  batch, frozen = tiny_batches()(0), tiny_params()
  alone = {n: whole_step(Preference(MODEL, spec_of(n)), batch, hyper_for((n,)), frozen) for n in ("dpo", "simpo")}
  hyper = hyper_for(("dpo", "simpo")) | place_hyper({"dpo.weight": 0.7, "simpo.weight": 0.2}, MESH)
  loss, gradient, metrics = whole_step(Preference(MODEL, spec_of("dpo", "simpo")), batch, hyper, frozen)
  np.testing.assert_allclose(loss, 0.7 * alone["dpo"][0] + 0.2 * alone["simpo"][0], rtol=1e-6)
  expected = jax.tree.map(lambda a, b: 0.7 * a + 0.2 * b, alone["dpo"][1], alone["simpo"][1])
  assert_gradients_close(gradient, expected)
  np.testing.assert_allclose(metrics["loss/simpo"][0] / metrics["loss/simpo"][1], alone["simpo"][0], rtol=1e-6)


def trainer(objective, hyper, **options):
  start = tiny_params()
  return Trainer(objective, make_optimizer(OPTIMIZER, 20), start, reference_params=start, hyper=hyper, **options)


@pytest.mark.sampled(1)
@pytest.mark.slow
@pytest.mark.parametrize("mix", [0.6, 1.0])
def test_a_moving_reference_mixes_every_so_many_steps(mix):
  one = trainer(
    Preference(MODEL), {"beta": 0.1, "reference_every": 2, "reference_mix": mix}, moving_reference=tiny_params()
  )
  expected = jax.device_get(tiny_params())
  losses = []
  for step in range(1, 6):
    ((_, metrics),) = train(one, tiny_batches(), 1)
    losses.append(metrics["loss"])
    params = jax.device_get(one.params)
    if step % 2 == 0:
      expected = jax.tree.map(lambda r, p: mix * p + (1 - mix) * r, expected, params)
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-6, atol=1e-7), jax.device_get(one.state.reference), expected
    )
  # Where the reference was put on the policy, the next loss is that of a start; before it was not.
  assert abs(losses[0] - np.log(2)) < 1e-6 < abs(losses[1] - np.log(2))
  assert (abs(losses[2] - np.log(2)) < 1e-6) == (mix == 1)


@pytest.mark.slow
def test_beta_follows_the_whole_batch():
  beta, strength, keep = 0.4, 0.6, 0.9
  hyper = {"beta": beta, "dynamic_beta": strength, "dynamic_beta_momentum": keep}
  batches = tiny_batches(tiny_dataset(8), rows=2)
  one = trainer(Preference(MODEL, loss_spec("dpo", dynamic_beta=strength)), hyper)
  running = 0.0
  for _ in range(4):
    (before,) = [m for m in [one.evaluate(batches)]]
    ((_, metrics),) = train(one, batches, 1)
    gap = before["ratio/chosen"] - before["ratio/rejected"]  # the same eight pairs, all of them
    np.testing.assert_allclose(metrics["beta"], beta * (1 + strength * (beta * gap - running)), rtol=1e-5)
    running = keep * running + (1 - keep) * beta * gap
    np.testing.assert_allclose(metrics["running/reward_gap"], running, rtol=1e-4, atol=1e-6)
  assert abs(running) > 1e-3
  np.testing.assert_allclose(one.state.running["running/reward_gap"], running, rtol=1e-4)


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
  short = {"train.steps": 4, "checkpoint.every": 2, "evaluation.every": 2, "monitor.every": 0}
  return write_config(tmp_path_factory.mktemp("preference"), **short)


@pytest.mark.sampled(1)
@pytest.mark.slow
@pytest.mark.parametrize(
  ("values", "first"),
  [
    ({"loss.name": "kto"}, 0.5),
    ({"loss.name": "bco", "batch.rows": 4}, np.log(2)),
    ({"loss.name": "kto", "reference.kind": "cache"}, 0.5),
    ({"loss.name": "aot", "loss.beta": 0.5, "loss.label_smoothing": 0.1, "batch.rows": 4}, np.log(2)),
    ({"loss.name": "0.5*dpo(beta=0.2) + 2*ipo(beta=0.5)"}, 0.5 * np.log(2) + 2.0),
    ({"loss.dynamic_beta": 0.6, "reference.kind": "cache"}, np.log(2)),
    ({"loss.ld_alpha": 0.5, "loss.f_divergence": "jensen_shannon"}, np.log(2)),
    ({"reference.kind": "moving", "reference.every": 2, "reference.mix": 0.5}, np.log(2)),
  ],
)
def test_every_kind_of_run_starts_at_its_predicted_value_and_resumes_bit_for_bit(config_file, tmp_path, values, first):
  config = load_config(str(config_file), values)
  run(config, tmp_path)
  records = read_metrics(tmp_path / "metrics.jsonl")
  held_out = [r["loss"] for r in records if r["split"] == "eval"]
  np.testing.assert_allclose(held_out[0], first, rtol=2e-6)
  train = [r for r in records if r["split"] == "train"]
  np.testing.assert_allclose(train[0]["loss"], first, rtol=2e-6)
  assert len({round(r["loss"], 6) for r in train}) > 1
  whole = state_digest(tmp_path, 4), timeless_metrics(tmp_path)
  shutil.rmtree(tmp_path / "checkpoints" / "4")
  run(config, tmp_path)
  assert (state_digest(tmp_path, 4), timeless_metrics(tmp_path)) == whole


@pytest.mark.long
@pytest.mark.parametrize(
  "values", [{"loss.name": "orpo"}, {"loss.name": "simpo"}, {"loss.wpo": True, "loss.sft_coef": 0.2}]
)
def test_runs_without_a_predicted_start(config_file, tmp_path, values):
  run(load_config(str(config_file), values), tmp_path)
  losses = [r["loss"] for r in read_metrics(tmp_path / "metrics.jsonl") if r["split"] == "train"]
  assert len(losses) == 4 and np.isfinite(losses).all()
