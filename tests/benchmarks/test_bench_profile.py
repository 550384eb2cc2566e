"""A step's profile, the loop's overhead and shared prompts, of a model so small that they take seconds.

Times mean nothing here; that everything is measured, adds up and leaves the trainer as it was does.
"""

import argparse

import jax
import numpy as np
import pytest

from benchmarks import profile, shared_prompts, timing
from benchmarks.counting import update_bytes
from benchmarks.environment import ROOT
from benchmarks.kernels import head_of, head_pieces, update_of, weight_products
from benchmarks.profile_tables import step_rows, summary
from benchmarks.trainers import live_trainer
from dpojax.config import load_config
from dpojax.config.keys import replace_values
from dpojax.config.schema import RunConfig
from dpojax.training.model_files import LoadedModel
from dpojax.training.step import accumulate
from tests.training.tiny import CONFIG, MODEL, tiny_batches, tiny_params

pytestmark = pytest.mark.slow


@pytest.fixture
def built(monkeypatch):
  monkeypatch.setattr(profile, "product_rate", lambda *given, **options: 1e9)
  config = replace_values(
    RunConfig(), {"train.steps": 100, "optimizer.weight_decay": 0.1, "optimizer.schedule": "constant"}
  )
  loaded = LoadedModel(MODEL, jax.device_put(tiny_params()), None)
  return profile.Built(config, loaded, live_trainer(config, loaded, 100), profile.Repeated(tiny_batches()))


@pytest.mark.long
def test_a_profile_adds_up_and_shows_everything(built):
  found = profile.profile_step(built, repeats=1, clock="wall")
  assert all(seconds > 0 for seconds in found["seconds"].values())
  rows = step_rows(found)
  assert sum(s for depth, _, s, _ in rows if depth == 1) == pytest.approx(found["seconds"]["step"])
  batch = built.host_batch
  assert int(batch.num_groups) > 1  # so that parts of several groups were added up
  filled = sum(len(np.flatnonzero(row >= 0)) for row in batch.segment.reshape(-1, batch.segment.shape[-1]))
  assert found["counts"]["tokens"] == filled < found["counts"]["row tokens"]
  parameters = sum(x.nbytes for x in jax.tree.leaves(built.loaded.params))
  memory = found["memory"]
  assert memory["parameters"] == memory["gradient"] == memory["reference"] == parameters
  assert 2 * parameters <= memory["optimizer"] < 2 * parameters + 100  # moments and counters
  assert memory["peak"] >= 5 * parameters and memory["other temporaries"] > 0
  text = summary(dict(config="tiny", precision="float32", batch=8, clock="wall", step=found))
  assert "· · attention, backward" in text and "planned peak" in text


@pytest.mark.long
def test_the_loop_takes_the_bare_steps_batch(built):
  found = profile.overhead(built, rounds=2, steps=3)
  assert [len(visit) for name in ("bare", "loop") for visit in found[name]] == [3] * 4
  assert int(built.trainer.state.step) == 1 + 2 * (3 + 4)
  assert found["pairs"] == np.sum(built.host_batch.example_index >= 0) > 1
  assert all(np.array_equal(a, b) for a, b in zip(*(built.batches(s).tokens for s in (0, 7)), strict=True))


@pytest.mark.long
def test_shared_and_repeated_prompts_are_counted_alike(built, monkeypatch):
  # One form is compiled and run; the other differs in its shape.
  monkeypatch.setattr(
    shared_prompts, "least_seconds", lambda calls, *_: calls["shared"]() and dict.fromkeys(calls, 1.0)
  )
  arguments = argparse.Namespace(prompt=20, answer=5, answers=4, repeats=1, clock="wall")
  found = shared_prompts.shared(built.config, built.loaded, arguments)
  assert found["row_tokens"] == {"shared": 40, "repeated": 100} and found["tokens"] == 100
  assert all(seconds > 0 for seconds in found["seconds"].values())


@pytest.mark.long
def test_the_update_is_that_of_the_step(built):
  """The copy of the step's update in `parts` must change with it."""
  trainer = built.trainer
  params = jax.tree.map(np.array, trainer.state.params)
  hyper = built.hyper | {"learning_rate": np.float32(0.1)}
  gradient_of = jax.jit(
    lambda params, batch: accumulate(trainer.objective, params, trainer.reference_params, batch, hyper)[1]
  )
  gradient = gradient_of(trainer.state.params, built.batch)
  update = jax.jit(update_of(trainer.optimizer))
  alone, moments, _ = update(params, trainer.state.opt_state, gradient, np.float32(0.1))
  state, _ = built.step(trainer.state, trainer.reference_params, built.batch, hyper)
  for a, b in ((alone, state.params), (moments, state.opt_state)):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), a, b)
  moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), alone, params)
  assert max(jax.tree.leaves(moved)) > 0.05


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_dpojax_takes_the_options_of_a_profile(precision):
  arguments = argparse.Namespace(pairs="pairs.jsonl", rows=5, precision=precision, batch=3, option=[])
  config = load_config(str(ROOT / "experiments/smollm2_hh.py"), profile.config_words(arguments))
  assert (config.batch.size, config.reference.kind, config.model.precision) == (3, "live", precision)


def test_pieces_of_the_head_are_its_products_and_passes():
  pieces = head_pieces(8, 3, 20, 4, "float32")
  shapes = {name: jax.eval_shape(f, *map(jax.numpy.zeros, given)).shape for name, (f, given) in pieces.items()}
  assert shapes == {
    "logits": (4, 20),
    "logits again": (10, 8),
    "d hidden": (3, 8),
    "d head": (10, 3),
    "softmax, forward": (4,),
    "softmax, backward": (10, 8),
  }


def test_weight_products_are_all_matrices_of_a_layer_forwards_and_backwards():
  forward, backward, shapes = weight_products(CONFIG, "float32")
  weights = {name: np.full(shape, 0.5, np.float32) for name, shape in shapes.items()}
  inputs = {size: np.ones((4, size), np.float32) for shape in shapes.values() for size in shape}
  assert {name: out.shape for name, out in forward(inputs, weights).items()} == {
    n: (4, s[1]) for n, s in shapes.items()
  }
  for name, (dx, dw) in backward(inputs, weights, inputs).items():
    assert dx.shape == (4, shapes[name][0]) and dw.shape == shapes[name]
    np.testing.assert_allclose(dx, 0.5 * shapes[name][1])
    np.testing.assert_allclose(dw, 4.0)


def test_the_head_alone_is_what_its_gradient_is_of():
  hidden, head, toward = timing.draw((6, 4), (10, 4), (6,))
  target = np.arange(6, dtype=np.int32)
  forward, gradient = head_of("float32", 3)
  dh, de = gradient(hidden, head, target, toward)
  step = 1e-2 * np.ones((6, 4), np.float32)
  change = np.sum((forward(hidden + step, head, target) - forward(hidden - step, head, target)) * toward) / 2
  assert change == pytest.approx(float(np.sum(dh * step)), rel=1e-2, abs=1e-4)
  assert de.shape == head.shape


def test_planned_memory_holds_arguments_results_and_temporaries():
  x = np.ones((256, 256), np.float32)
  analysis = timing.compile_for(lambda x: jax.numpy.sort(x @ x, axis=0) @ x, x).memory_analysis()
  assert timing.planned_bytes(analysis) >= 3 * x.nbytes


def test_rates_are_positive_and_finite(monkeypatch):
  assert 1e7 < timing.copy_bandwidth(repeats=1, megabytes=4) < 1e12
  assert update_bytes(1) / timing.copy_bandwidth(repeats=1, megabytes=4) > 0
  least = timing.least_seconds({"a": lambda: jax.numpy.zeros(3)}, repeats=1, clock="cpu")
  assert least["a"] >= 0
