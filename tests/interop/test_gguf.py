"""GGUF files written here in llama.cpp's layout read as the transformers models they were made from."""

import json
import re
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from dpojax.errors import WeightsError
from dpojax.interop.files import open_model_files
from dpojax.interop.gguf import GgufFile
from dpojax.interop.gguf_reader import GgufReader

GOLDENS = Path(__file__).parents[1] / "oracles" / "goldens" / "models"


def neighbours(weight, heads):
  """llama.cpp's order within a head, from its convert_hf_to_gguf.py: the two halves interleaved."""
  halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
  return halves.swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path, name, *, keys=None, tensors=None, quantise=False):
  """The golden model `name` as llama.cpp would convert it; `keys` and `tensors` are added or replace."""
  source = open_model_files(str(GOLDENS / name))
  config = source.config
  writer = gguf.GGUFWriter(path, "llama")
  values = {
    "llama.block_count": config["num_hidden_layers"],
    "llama.context_length": config["max_position_embeddings"],
    "llama.embedding_length": config["hidden_size"],
    "llama.feed_forward_length": config["intermediate_size"],
    "llama.attention.head_count": config["num_attention_heads"],
    "llama.attention.head_count_kv": config["num_key_value_heads"],
    "llama.attention.key_length": config["head_dim"],
    "llama.rope.dimension_count": config["head_dim"],
    "llama.rope.freq_base": config["rope_parameters"]["rope_theta"],
    "llama.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    **(keys or {}),
  }
  for key, value in values.items():
    if isinstance(value, str):
      writer.add_string(key, value)
    elif value is not None:
      (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(key, value)
  parts = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
  }
  whole = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
  whole["lm_head.weight"] = "output.weight"
  stored = {}
  for name, value in source.tensors.items():
    value = value.astype(np.float32)
    for key, heads in (("q_proj", config["num_attention_heads"]), ("k_proj", config["num_key_value_heads"])):
      value = neighbours(value, heads) if key in name else value
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    stored[f"blk.{match[1]}.{parts[match[2]]}.{match[3]}" if match else whole[name]] = value
  for name, value in {**stored, **(tensors or {})}.items():
    if quantise and value.ndim == 2 and value.shape[-1] % 32 == 0:
      kind = gguf.GGMLQuantizationType.Q8_0
      writer.add_tensor(name, gguf.quantize(value, kind), raw_dtype=kind)
    else:
      writer.add_tensor(name, value)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()


def llama3_factors(head_dim, theta, factor):
  """As llama.cpp's converter computes rope_freqs.weight, for the constants of Llama 3.1 and 3.2."""
  low, high, original = 1.0, 4.0, 8192
  out = []
  for i in range(0, head_dim, 2):
    wavelength = 2 * np.pi * theta ** (i / head_dim)
    if wavelength < original / high:
      out.append(1.0)
    elif wavelength > original / low:
      out.append(factor)
    else:
      smooth = (original / wavelength - low) / (high - low)
      out.append(1 / ((1 - smooth) / factor + smooth))
  return np.asarray(out, np.float32)


@pytest.mark.parametrize("name", ["mistral_window", "llama3_untied_bias_sharded", "llama_tied_linear_bfloat16"])
def test_weights_and_config_are_those_of_the_model_it_was_made_from(tmp_path, name):
  source = open_model_files(str(GOLDENS / name))
  keys = {
    "mistral_window": {"llama.attention.sliding_window": 8},
    "llama_tied_linear_bfloat16": {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0},
  }.get(name)
  write_gguf(tmp_path / "model.gguf", name, keys=keys)
  files = open_model_files(str(tmp_path))
  assert files.kind == "gguf" and files.path.name == "model.gguf"
  assert files.generation_config == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
  assert sorted(files.tensors) == sorted(source.tensors)
  for tensor, value in source.tensors.items():
    np.testing.assert_array_equal(files.tensors[tensor], value.astype(np.float32))
  theirs, ours = source.config, files.config
  same = ["model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim"]
  same += ["num_key_value_heads", "intermediate_size", "rms_norm_eps", "max_position_embeddings", "tie_word_embeddings"]
  assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}
  assert ours["rope_theta"] == theirs["rope_parameters"]["rope_theta"]
  assert ours.get("sliding_window") == theirs.get("sliding_window")
  assert ours["attention_bias"] == theirs.get("attention_bias", False)
  if "linear" in name:
    assert ours["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}


def test_quantised_tensors_are_expanded(tmp_path):
  value = np.random.default_rng(0).normal(size=(24, 32)).astype(np.float32)
  write_gguf(tmp_path / "m.gguf", "mistral_window", tensors={"blk.0.ffn_gate.weight": value}, quantise=True)
  found = GgufFile(tmp_path / "m.gguf")["model.layers.0.mlp.gate_proj.weight"]
  assert found.dtype == np.float32
  assert 0 < np.abs(found - value).max() < np.abs(value).max() / 127


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("quantise", [False, True])
def test_a_tensor_that_is_not_finite_is_named(tmp_path, quantise):
  value = np.ones((24, 32), np.float32)
  value[3, 5] = np.inf  # in Q8_0 it makes its whole block of 32 NaN or infinite
  write_gguf(tmp_path / "m.gguf", "mistral_window", tensors={"blk.0.ffn_gate.weight": value}, quantise=quantise)
  file = GgufFile(tmp_path / "m.gguf")
  with pytest.raises(WeightsError, match=r"m\.gguf: tensor blk\.0\.ffn_gate\.weight is not finite: of its 768 numbers"):
    file["model.layers.0.mlp.gate_proj.weight"]
  file["model.layers.0.mlp.up_proj.weight"]


@pytest.mark.parametrize("rows", [7, 24, 48, 640])
def test_tensors_are_expanded_as_gguf_itself_does_whatever_their_rows(tmp_path, rows):
  value = np.random.default_rng(rows).normal(size=(rows, 64)).astype(np.float32)
  write_gguf(tmp_path / "m.gguf", "mistral_window", tensors={"blk.0.ffn_gate.weight": value}, quantise=True)
  theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}["blk.0.ffn_gate.weight"]
  found = GgufFile(tmp_path / "m.gguf")["model.layers.0.mlp.gate_proj.weight"]
  np.testing.assert_array_equal(found, gguf.dequantize(theirs.data, theirs.tensor_type))


def test_asking_for_a_name_expands_nothing(tmp_path, monkeypatch):
  write_gguf(tmp_path / "m.gguf", "mistral_window")
  monkeypatch.setattr(gguf, "dequantize", None)
  file = GgufFile(tmp_path / "m.gguf")
  assert "model.norm.weight" in file and "model.norm.bias" not in file


@pytest.fixture(params=[["b", "c"], [1, 2]], ids=["strings_last", "numbers_last"])
def metadata(tmp_path, request):
  """A file of every kind of metadata, and nothing else."""
  writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
  writer.add_string("text", "naïve")
  writer.add_array("strings", ["", "a", "überall", "x" * 1000])
  writer.add_array("numbers", [3, -1, 2**30])
  writer.add_array("floats", [0.5, 1e-5])
  writer.add_array("bools", [True, False])
  writer.add_array("nested", [[1, 2], [3]])
  writer.add_array("last", request.param)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.close()
  return tmp_path / "m.gguf"


def test_metadata_read_at_once_is_what_gguf_reads_element_by_element(metadata):
  ours, theirs = GgufReader(metadata), gguf.GGUFReader(metadata)
  assert {k: f.contents() for k, f in ours.fields.items()} == {k: f.contents() for k, f in theirs.fields.items()}
  assert [f.types for f in ours.fields.values()] == [f.types for f in theirs.fields.values()]


def test_metadata_cut_off_anywhere_is_an_error(metadata):
  whole = metadata.read_bytes()
  for end in (*range(8, len(whole), 37), len(whole) - 1):
    metadata.write_bytes(whole[:end])
    with pytest.raises((ValueError, IndexError, struct.error)):
      GgufReader(metadata)


def test_llama3_scaling_is_recognised_from_its_divisors(tmp_path):
  name, keys = "llama3_untied_bias_sharded", {"llama.rope.freq_base": 5e5}
  for factor in (8.0, 32.0):
    factors = llama3_factors(8, 5e5, factor)
    write_gguf(tmp_path / "m.gguf", name, keys=keys, tensors={"rope_freqs.weight": factors})
    assert GgufFile(tmp_path / "m.gguf").config["rope_scaling"] == {
      "rope_type": "llama3",
      "factor": factor,
      "low_freq_factor": 1.0,
      "high_freq_factor": 4.0,
      "original_max_position_embeddings": 8192,
    }
  factors[1] += 1.0
  write_gguf(tmp_path / "m.gguf", name, keys=keys, tensors={"rope_freqs.weight": factors})
  with pytest.raises(WeightsError, match=r"rope_freqs.weight is not Llama 3's rope scaling"):
    GgufFile(tmp_path / "m.gguf")


@pytest.mark.parametrize(
  ("keys", "tensors", "message"),
  [
    ({"llama.rope.scaling.type": "yarn"}, None, "llama.rope.scaling.type is 'yarn'; supported: none, linear"),
    ({"llama.rope.dimension_count": 4}, None, "llama.rope.dimension_count is 4"),
    ({"llama.expert_count": 8}, None, "llama.expert_count is 8"),
    ({"llama.block_count": None}, None, "no key llama.block_count"),
    (None, {"blk.0.ssm_in.weight": np.ones(2, np.float32)}, "tensor blk.0.ssm_in.weight belongs to no supported"),
  ],
)
def test_what_is_not_supported_is_named(tmp_path, keys, tensors, message):
  write_gguf(tmp_path / "m.gguf", "mistral_window", keys=keys, tensors=tensors)
  with pytest.raises(WeightsError, match=re.escape(message)):
    GgufFile(tmp_path / "m.gguf")


def test_another_architecture_is_named(tmp_path):
  writer = gguf.GGUFWriter(tmp_path / "m.gguf", "gpt2")
  for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
    write()
  with pytest.raises(WeightsError, match=r"general.architecture is 'gpt2'; supported: 'llama'"):
    GgufFile(tmp_path / "m.gguf")


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.02, 0.3, 0.6, 0.95])
def test_a_truncated_file_is_named(tmp_path, kept):
  write_gguf(tmp_path / "m.gguf", "mistral_window")
  content = (tmp_path / "m.gguf").read_bytes()
  (tmp_path / "m.gguf").write_bytes(content[: int(kept * len(content))])
  with pytest.raises(WeightsError, match=r"m.gguf: damaged, truncated or not GGUF"):
    GgufFile(tmp_path / "m.gguf")


def test_text_in_place_of_gguf_is_named(tmp_path):
  (tmp_path / "m.gguf").write_text(json.dumps({"not": "gguf"}) * 20)
  with pytest.raises(WeightsError, match=r"m.gguf: damaged, truncated or not GGUF"):
    open_model_files(str(tmp_path / "m.gguf"))
