"""Between transformers' tensors and stacked parameters, and every way the tensors can be wrong."""

import dataclasses
import re
import tracemalloc
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest

from dpojax.errors import WeightsError
from dpojax.interop.files import open_model_files
from dpojax.models.config import ModelConfig
from dpojax.models.weights import load, params_from_tensors, tensors_from_params

GOLDENS = Path(__file__).parents[1] / "oracles" / "goldens" / "models"


def golden(name):
  files = open_model_files(str(GOLDENS / name))
  return ModelConfig.from_transformers(files.config), {key: files.tensors[key] for key in files.tensors}


@pytest.mark.parametrize("folder", sorted(GOLDENS.iterdir()), ids=lambda folder: folder.name)
def test_tensors_come_back(folder):
  config, tensors = golden(folder.name)
  params = params_from_tensors(config, tensors)
  assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(params))
  back = tensors_from_params(config, params)
  assert sorted(back) == sorted(tensors)
  for name, value in tensors.items():
    assert back[name].flags.c_contiguous
    np.testing.assert_array_equal(back[name], value.astype(np.float32))


def test_a_tied_head_and_old_buffers_are_ignored():
  config, tensors = golden("llama_tied_linear_bfloat16")
  expected = params_from_tensors(config, tensors)
  tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
  tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
  jax.tree.map(np.testing.assert_array_equal, params_from_tensors(config, tensors), expected)


def test_a_head_that_is_not_the_embedding_contradicts_a_tie():
  config, tensors = golden("llama_tied_linear_bfloat16")
  tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * 2
  with pytest.raises(WeightsError, match=r"tie_word_embeddings true, but tensor lm_head.weight differs"):
    params_from_tensors(config, tensors)


QUERY = "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict.popitem, "missing for this config of 2 layers"),
    (lambda t: t.pop("lm_head.weight"), "tensor lm_head.weight missing"),
    (lambda t: [t.pop(k) for k in sorted(t) if "layers.1." in k], "tensors model.layers.1.input_layernorm.weight, "),
    (
      lambda t: t.update({"model.layers.2.mlp.up_proj.weight": t[QUERY]}),
      "no place in this model for tensor model.lay",
    ),
    (lambda t: t.update({QUERY: t[QUERY].T}), f"tensor {QUERY} has shape (16, 32); this config needs (32, 16)"),
    (lambda t: t.update({QUERY: t[QUERY].astype(np.int8)}), f"tensor {QUERY} is of int8"),
    (
      lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": np.zeros(32, np.float32)}),
      "no place in this model for tensor model.layers.0.self_attn.q_proj.bias",
    ),
  ],
)
def test_wrong_tensors_are_named(change, message):
  config, tensors = golden("mistral_window")
  change(tensors)
  with pytest.raises(WeightsError, match=re.escape(message)):
    params_from_tensors(config, tensors)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(layers=10**9), "num_hidden_layers is 1000000000, but the weights are"),
    (dict(vocab_size=2**31 - 1), "this config needs (2147483647, 16)"),
    (dict(ffn=2**31 - 1), "this config needs (16, 2147483647)"),
    (dict(head_dim=2**30), "this config needs (2147483648, 16)"),
  ],
)
def test_absurd_sizes_are_refused_before_anything_is_allocated(change, message):
  config, tensors = golden("mistral_window")
  tracemalloc.start()
  with pytest.raises(WeightsError, match=re.escape(message)):
    params_from_tensors(dataclasses.replace(config, **change), tensors)
  assert tracemalloc.get_traced_memory()[1] < 2**20
  tracemalloc.stop()


def test_half_precision_is_widened():
  config, tensors = golden("mistral_window")
  narrow = {name: value.astype(ml_dtypes.bfloat16) for name, value in tensors.items()}
  params = params_from_tensors(config, narrow)
  np.testing.assert_array_equal(params["embed"], narrow["model.embed_tokens.weight"].astype(np.float32))


def test_load_names_the_model(tmp_path):
  with pytest.raises(WeightsError, match="absent: no such file or folder"):
    load(str(tmp_path / "absent"))


def test_loaded_smollm2_has_its_published_size(smollm2):
  model, params, tokenizer = smollm2
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 134_515_008
  assert tokenizer.vocab_size == model.config.vocab_size == 49_152
