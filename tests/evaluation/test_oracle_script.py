"""experiments/oracle_curve.py on two random models of the complaint desk."""

import dataclasses
import importlib.util
import json
import pathlib

import jax
import numpy as np
import pytest

from dpojax.config.keys import replace_values
from dpojax.config.schema import DataSettings, RunConfig
from dpojax.data.prompts import prompts_given
from dpojax.environments import get_world
from dpojax.rollout.answers_file import Sampling, sample
from dpojax.training.model_files import new_model

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "oracle_curve.py"
VALUES = {
  "recipe": "sft",
  "model.hidden": 16,
  "model.ffn": 32,
  "model.layers": 1,
  "batch.row_length": 64,
  "data.source": "world",
  "data.name": "complaint_desk",
}


@pytest.fixture
def script(monkeypatch):
  spec = importlib.util.spec_from_file_location("oracle_curve", FILE)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  made = {name: new_model(replace_values(RunConfig(), VALUES | {"model.seed": i})) for i, name in enumerate("ab")}
  made["wide"] = new_model(replace_values(RunConfig(), VALUES | {"model.hidden": 24}))
  sharper = jax.tree.map(lambda x: 2 * x, made["b"].params)  # random models are all but uniform, and so alike
  made["b"] = dataclasses.replace(made["b"], params=sharper)
  monkeypatch.setattr(module, "load_writer", made.__getitem__)
  module.made = made
  return module


def run(script, tmp_path, *words):
  out = tmp_path / "oracle.json"
  code = script.main([*words, "--prompts=6", "--samples=12", "--max-tokens=5", f"--out={out}"])
  return code, json.loads(out.read_text()) if out.exists() else None


def test_log_probs_are_the_samplers_own(script):
  loaded, other = script.made["a"], script.made["b"]
  prompts = prompts_given(get_world("complaint_desk").prompts(3, 0, "held_out"), DataSettings(), loaded.tokenizer)
  samples = sample(loaded.model, loaded.params, loaded.tokenizer, [row.ids for row in prompts], Sampling(11, 5, seed=1))
  own = [[one.logp.astype(float).sum() for one in several] for several in samples]
  # float32 of another program: 1e-5 a token of about 5 nats.
  np.testing.assert_allclose(script.log_probs("a", loaded, prompts, samples), own, atol=1e-4)
  assert np.abs(script.log_probs("b", other, prompts, samples) - own).mean() > 0.1


def test_a_run_of_the_reference_itself_gains_nothing(script, tmp_path, capsys):
  code, found = run(script, tmp_path, "--reference=a", "a", "b")
  assert code == 0
  same, other = found["policies"]
  assert same["kl"] == pytest.approx(0, abs=1e-5) and other["kl"] > 0.1
  assert found["reference"]["kl"] == 0 and found["settings"]["prompts"] == 6
  assert {"path", "kl", "kl_error", "reward", "reward_error", "oracle", "share"} <= set(other)
  kls = [point["kl"] for point in found["points"]]
  assert kls == sorted(kls)
  out = capsys.readouterr().out
  assert out.splitlines()[0].split() == ["reward", "KL,", "nats", "oracle", "share", "of", "its", "gain", "run"]
  assert out.splitlines()[2].split("  ")[-2:] == ["the oracle's gain is 0", "a"]
  assert f"{other['reward']:.3f} ± {other['reward_error']:.3f}" in out


def test_what_cannot_be_compared(script, tmp_path, capsys):
  code, found = run(script, tmp_path, "--reference=a", "wide")
  assert code == 1 and found is None
  assert "wide has another shape or tokenizer than a" in capsys.readouterr().err
