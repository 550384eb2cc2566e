"""Reward models in transformers' form: the scores are those that transformers gives, and weights survive both ways."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from dpojax.data.examples import TokenExample
from dpojax.data.packing import BatchShape, pack
from dpojax.errors import WeightsError
from dpojax.interop.files import open_model_files
from dpojax.interop.tokenizer import Tokenizer
from dpojax.models.config import ModelConfig
from dpojax.models.language_model import LanguageModel
from dpojax.models.reward_model import Normalisation, RewardModel
from dpojax.models.weights import load, reward_model_from_transformers, reward_model_to_transformers

GOLDENS = Path(__file__).parents[1] / "oracles" / "goldens"
NAMES = sorted(folder.name for folder in (GOLDENS / "rewards").iterdir())


def open_golden(name):
  """(RewardModel, parameters, config.json, tensors, npz with tokens, lengths and scores)."""
  files = open_model_files(str(GOLDENS / "rewards" / name))
  model = LanguageModel(ModelConfig.from_transformers(files.config))
  read = reward_model_from_transformers(model, files.config, files.tensors)
  return *read, files.config, files.tensors, np.load(GOLDENS / "rewards" / name / "scores.npz")


def scores(model, params, examples, *, rows, length):
  """{example: [K] scores} of examples packed into one group."""
  batch = pack(examples, BatchShape(1, rows, length, length, len(examples), len(examples[0].answers))).group(0)
  rewards = np.asarray(jax.jit(model.rewards)(params, batch))[..., 0]
  found = {}
  for r, e in zip(*np.nonzero(batch.example_index >= 0), strict=True):
    first = e * batch.answers_per_example
    found[int(batch.example_index[r, e])] = rewards[r, first : first + batch.answers_per_example]
  return found


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_that_transformers_gives_a_padded_batch(name):
  model, params, _, _, golden = open_golden(name)
  texts = [ids[:n].astype(np.int32) for ids, n in zip(golden["tokens"], golden["lengths"], strict=True)]
  examples = [TokenExample(text[:1], (text[1:],), index=i) for i, text in enumerate(texts)]
  found = scores(model, params, examples, rows=2, length=40)
  np.testing.assert_allclose([found[i][0] for i in range(len(texts))], golden["scores"], atol=1e-4)
  assert np.ptp(golden["scores"]) > 1


@pytest.mark.parametrize("name", NAMES)
def test_weights_and_config_go_out_as_they_came_in(name):
  model, params, config, tensors, _ = open_golden(name)
  written, out = reward_model_to_transformers(model, params, pad_id=config["pad_token_id"])
  assert sorted(out) == sorted(tensors)
  for key in out:
    np.testing.assert_array_equal(out[key], tensors[key])
  ours = {"id2label", "label2id"}  # names of the one label
  for key in set(config) - ours - {"attention_dropout", "initializer_range", "transformers_version", "use_cache"}:
    if key != "pretraining_tp":
      assert written[key] == config[key], key
  assert written["num_labels"] == len(written["id2label"]) == 1
  again, read = reward_model_from_transformers(model.model, json.loads(json.dumps(written)), out)
  assert again == model
  for a, b in zip(jax.tree.leaves(read), jax.tree.leaves(params), strict=True):
    np.testing.assert_array_equal(a, b)


def test_normalisation_travels_with_the_config():
  model, params, *_ = open_golden(NAMES[0])
  measured = dataclasses.replace(model, normalisation=Normalisation((0.25,), (1.5,), 1.5))
  written, out = reward_model_to_transformers(measured, params, pad_id=3)
  again, _ = reward_model_from_transformers(model.model, json.loads(json.dumps(written)), out)
  assert again == measured


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda c, t: t.update({"score.weight": np.zeros((2, 16), np.float32)}), "shape (2, 16); a reward model has one"),
    (lambda c, t: t.pop("score.weight"), "tensor score.weight missing; a reward model keeps its head there"),
    (lambda c, t: t.pop("model.norm.weight"), "tensor model.norm.weight missing for this config"),
    (lambda c, t: c.update({"dpojax_reward_head": {"heads": 1, "mean": [1.0]}}), "no description of a head"),
  ],
)
def test_damaged_ones_are_refused(change, message):
  model, _, config, tensors, _ = open_golden(NAMES[0])
  config, tensors = dict(config), {name: tensors[name] for name in tensors}
  change(config, tensors)
  with pytest.raises(WeightsError) as error:
    reward_model_from_transformers(model.model, config, tensors)
  assert message in str(error.value)


def test_a_reward_model_is_no_language_model(tmp_path):
  for file in (GOLDENS / "rewards" / NAMES[0]).iterdir():
    (tmp_path / file.name).write_bytes(file.read_bytes())
  Tokenizer.from_words([f"w{i}" for i in range(39)], eos="</s>").save(tmp_path)
  with pytest.raises(WeightsError, match="it is a reward model, which has no vocabulary head"):
    load(str(tmp_path))


def test_smollm2_scores_hh_as_transformers_does(smollm2):
  """Padded batches there, pairs packed behind one prompt here; SmolLM2's own pad token is its EOS."""
  language_model, trunk, _ = smollm2
  golden = np.load(GOLDENS / "reward_smollm2_hh.npz")
  ends = np.cumsum(golden["lengths"])
  texts = np.split(golden["ids"], ends[:-1])
  model = RewardModel(language_model)
  params = model.with_head(trunk, jax.random.key(0)) | {"score": jax.numpy.asarray(golden["head"])[None]}
  pairs = [
    TokenExample(texts[i][:p], (texts[i][p:], texts[i + 1][p:]), index=i // 2)
    for i, p in zip(range(0, len(texts), 2), golden["prompts"][::2].tolist(), strict=True)
  ]
  assert all((texts[2 * i + 1][: len(e.prompt)] == e.prompt).all() for i, e in enumerate(pairs))
  short = sorted(pairs, key=lambda e: e.row_tokens())[:8]
  numbered = [dataclasses.replace(e, index=i) for i, e in enumerate(short)]
  found = scores(model, params, numbered, rows=3, length=512)
  expected = golden["scores"].reshape(-1, 2)
  for i, example in enumerate(short):
    np.testing.assert_allclose(found[i], expected[example.index], atol=1e-4)
  assert np.abs(expected).max() > 0.5
