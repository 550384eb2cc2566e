"""Weights in GGUF files, under the names and in the layout of transformers.

Quantised tensors are expanded to float32. llama.cpp stores the query and key matrices with the two
halves of each head interleaved; they are put back here.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from dpojax.errors import WeightsError
from dpojax.interop.finite import check_finite
from dpojax.interop.gguf_reader import GgufReader
from dpojax.ops.rotary import RopeScaling, rotary_frequencies

# llama.cpp's names -> transformers'. `blk.N.` becomes `model.layers.N.`.
GLOBAL_NAMES = {
  "token_embd.weight": "model.embed_tokens.weight",
  "output_norm.weight": "model.norm.weight",
  "output.weight": "lm_head.weight",
}
LAYER_NAMES = {
  "attn_norm": "input_layernorm",
  "attn_q": "self_attn.q_proj",
  "attn_k": "self_attn.k_proj",
  "attn_v": "self_attn.v_proj",
  "attn_output": "self_attn.o_proj",
  "ffn_norm": "post_attention_layernorm",
  "ffn_gate": "mlp.gate_proj",
  "ffn_up": "mlp.up_proj",
  "ffn_down": "mlp.down_proj",
}
KEYS = ("general.", "llama.", *(f"tokenizer.ggml.{end}_token_id" for end in ("bos", "eos", "padding")))
ROPE_FACTORS = "rope_freqs.weight"  # divisors of the rotary frequencies: part of the config, not of the weights


class GgufFile(Mapping[str, np.ndarray]):
  """The tensors of a GGUF file by transformers' names, expanded to float32 when asked for.

  Attributes:
    config: the dict of an equivalent `config.json`.
    generation_config: the dict of an equivalent `generation_config.json`.

  Raises:
    WeightsError: not GGUF, truncated, or of an architecture or with an option that is not supported; or a tensor
      that is asked for is not finite.
  """

  def __init__(self, path: Path):
    self._path = path
    try:
      reader = GgufReader(path)
      fields = {key: reader.fields[key].contents() for key in reader.fields if key.startswith(KEYS)}
      stored = {tensor.name: tensor for tensor in reader.tensors}
    except Exception as error:  # the reader meets damage as index, key, value, type or memory errors
      raise WeightsError(f"{path}: damaged, truncated or not GGUF: {error}") from error
    self._stored = {_outside_name(path, name): tensor for name, tensor in stored.items() if name != ROPE_FACTORS}
    factors = np.asarray(stored[ROPE_FACTORS].data) if ROPE_FACTORS in stored else None
    self.config = _config(path, fields, self._stored, factors)
    self.generation_config = {key: self.config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}

  def __getitem__(self, name: str) -> np.ndarray:
    tensor = self._stored[name]
    try:
      value = _expanded(tensor)
    except (NotImplementedError, ValueError) as error:
      raise WeightsError(f"{self._path}: tensor {tensor.name} of type {tensor.tensor_type.name}: {error}") from error
    check_finite(value, tensor.name, self._path)
    for key, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
      if f"self_attn.{key}." in name:
        value = join_halves(value, self.config[heads])
    return value

  def shape(self, name: str) -> tuple[int, ...]:
    """The shape of a tensor, which is not expanded."""
    return tuple(int(n) for n in reversed(self._stored[name].shape))

  def __contains__(self, name: object) -> bool:
    return name in self._stored  # a Mapping's own would expand the tensor to see

  def __iter__(self) -> Iterator[str]:
    return iter(self._stored)

  def __len__(self) -> int:
    return len(self._stored)


def _expanded(tensor: Any) -> np.ndarray:
  """The tensor in float32. gguf takes 16 rows at a time, few bytes a call; its blocks know no rows, so ours are long."""
  data, kind = tensor.data, tensor.tensor_type
  joined = next(n for n in (16, 8, 4, 2, 1) if (data.ndim == 2 and len(data) % n == 0) or n == 1)
  if joined == 1:
    return gguf.dequantize(data, kind)
  return gguf.dequantize(data.reshape(len(data) // joined, -1), kind).reshape(len(data), -1)


def join_halves(value: np.ndarray, heads: int) -> np.ndarray:
  """Undoes llama.cpp's order of the output rows of each head: (0, d/2, 1, d/2 + 1, ...) -> (0, 1, 2, ...)."""
  if value.shape[0] % (2 * heads):
    return value  # of the wrong shape, which the model's own check names
  return value.reshape(heads, value.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(value.shape)


def _outside_name(path: Path, name: str) -> str:
  if name in GLOBAL_NAMES:
    return GLOBAL_NAMES[name]
  match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
  if match is None or match[2] not in LAYER_NAMES:
    raise WeightsError(f"{path}: tensor {name} belongs to no supported architecture; supported: Llama and Mistral")
  return f"model.layers.{match[1]}.{LAYER_NAMES[match[2]]}.{match[3]}"


def _config(
  path: Path, fields: dict[str, Any], tensors: Mapping[str, Any], factors: np.ndarray | None
) -> dict[str, Any]:
  """llama.cpp's metadata as a transformers config."""
  architecture = fields.get("general.architecture")
  if architecture != "llama":
    raise WeightsError(
      f"{path}: general.architecture is {architecture!r}; supported: 'llama' (Llama, Mistral, SmolLM2)"
    )

  def get(key, *default):
    if f"llama.{key}" not in fields and not default:
      raise WeightsError(f"{path}: no key llama.{key}")
    return fields.get(f"llama.{key}", *default)

  heads = get("attention.head_count")
  head_dim = get("attention.key_length", get("embedding_length") // heads)
  if get("rope.dimension_count", head_dim) != head_dim:
    raise WeightsError(
      f"{path}: llama.rope.dimension_count is {get('rope.dimension_count')}; supported: {head_dim}, all"
    )
  if get("expert_count", 0):
    raise WeightsError(f"{path}: llama.expert_count is {get('expert_count')}; mixtures of experts are not supported")
  window = get("attention.sliding_window", 0) or None
  return {
    "architectures": ["MistralForCausalLM" if window else "LlamaForCausalLM"],
    "model_type": "mistral" if window else "llama",
    **({"sliding_window": window} if window else {}),
    "vocab_size": int(tensors["model.embed_tokens.weight"].shape[-1]) if "model.embed_tokens.weight" in tensors else 0,
    "hidden_size": get("embedding_length"),
    "num_hidden_layers": get("block_count"),
    "num_attention_heads": heads,
    "num_key_value_heads": get("attention.head_count_kv", heads),
    "head_dim": head_dim,
    "intermediate_size": get("feed_forward_length"),
    "hidden_act": "silu",
    "rms_norm_eps": _shortest(get("attention.layer_norm_rms_epsilon")),
    "max_position_embeddings": get("context_length"),
    "rope_theta": _shortest(get("rope.freq_base", 10_000.0)),
    "rope_scaling": _rope_scaling(path, get, head_dim, factors),
    "tie_word_embeddings": "lm_head.weight" not in tensors,
    "attention_bias": "model.layers.0.self_attn.q_proj.bias" in tensors,
    "mlp_bias": "model.layers.0.mlp.gate_proj.bias" in tensors,
    "bos_token_id": fields.get("tokenizer.ggml.bos_token_id"),
    "eos_token_id": fields.get("tokenizer.ggml.eos_token_id"),
    "pad_token_id": fields.get("tokenizer.ggml.padding_token_id"),
  }


def _rope_scaling(path: Path, get, head_dim: int, factors: np.ndarray | None) -> dict[str, Any] | None:
  """The scaling rule, from its name or, for Llama 3, from the divisors that llama.cpp stores instead."""
  kind = get("rope.scaling.type", "none")
  if kind == "linear":
    return {"rope_type": "linear", "factor": _shortest(get("rope.scaling.factor"))}
  if kind != "none":
    raise WeightsError(f"{path}: llama.rope.scaling.type is {kind!r}; supported: none, linear, Llama 3's")
  if factors is None:
    return None
  scaling = RopeScaling("llama3", _shortest(np.max(factors)))  # with Llama 3's constants for the rest
  theta = get("rope.freq_base", 10_000.0)
  expected = rotary_frequencies(head_dim, theta) / rotary_frequencies(head_dim, theta, scaling)
  if factors.shape != expected.shape or not np.allclose(factors, expected, rtol=1e-3):
    raise WeightsError(f"{path}: tensor {ROPE_FACTORS} is not Llama 3's rope scaling; no other is supported")
  return {
    "rope_type": "llama3",
    "factor": scaling.factor,
    "low_freq_factor": scaling.low_freq_factor,
    "high_freq_factor": scaling.high_freq_factor,
    "original_max_position_embeddings": scaling.original_max_positions,
  }


def _shortest(value: float) -> float:
  """The float32 number of a GGUF key as its writer meant it: 1e-05, not 9.999999747378752e-06."""
  return float(str(np.float32(value)))
