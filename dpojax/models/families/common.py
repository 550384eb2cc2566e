"""What families share: reading and writing the keys of a transformers `config.json`."""

import dataclasses
from collections.abc import Callable
from typing import Any

from dpojax.errors import WeightsError
from dpojax.ops.rotary import RopeScaling


@dataclasses.dataclass(frozen=True)
class Family:
  """How a model family is named outside.

  Attributes:
    name: `model_type` in config.json.
    architecture: the class transformers builds.
    classifier: its class with a linear head on the last token instead: a reward model, where it has one label.
    read: config.json dict -> fields of a `ModelConfig`.
    write: the inverse, of a `ModelConfig`.
    tensors: our parameter path -> transformers' name; `{layer}` marks one tensor a layer. Matrices of
      layers are stored [out, in] there and [in, out] here.
  """

  name: str
  architecture: str
  classifier: str
  read: Callable[[dict[str, Any]], dict[str, Any]]
  write: Callable[[Any], dict[str, Any]]
  tensors: dict[str, str]


def read_decoder(config: dict[str, Any], family: str, **options) -> dict[str, Any]:
  """Keys that Llama-like families share; `options` are the family's own fields of ModelConfig."""
  refuse_unless(config, "hidden_act", "silu")
  refuse_unless(config, "quantization_config", None)
  attention = "full_attention" if options.get("window") is None else "sliding_attention"
  for layer, kind in enumerate(config.get("layer_types") or ()):
    if kind != attention:
      raise WeightsError(f"config.json: layer_types[{layer}] is {kind!r}; supported here: {attention!r} in every layer")
  heads = integer(config, "num_attention_heads")
  eos = config.get("eos_token_id", 2)  # transformers' default for these families, as is bos_token_id's 1
  return dict(
    family=family,
    vocab_size=integer(config, "vocab_size"),
    hidden=integer(config, "hidden_size"),
    layers=integer(config, "num_hidden_layers"),
    heads=heads,
    kv_heads=integer(config, "num_key_value_heads", heads),
    head_dim=integer(config, "head_dim", 0),
    ffn=integer(config, "intermediate_size"),
    norm_epsilon=number(config, "rms_norm_eps", 1e-6),
    max_positions=integer(config, "max_position_embeddings", 2048),
    rope_theta=number(config.get("rope_parameters") or config, "rope_theta", 10_000.0),
    rope_scaling=read_rope_scaling(config),
    tie_embeddings=bool(config.get("tie_word_embeddings", False)),
    bos_id=config.get("bos_token_id", 1),
    eos_ids=() if eos is None else tuple(eos) if isinstance(eos, list) else (eos,),
    pad_id=config.get("pad_token_id"),
    **options,
  )


def write_decoder(config: Any, architecture: str) -> dict[str, Any]:
  """Inverse of `read_decoder`."""
  eos = list(config.eos_ids)
  return {
    "architectures": [architecture],
    "model_type": config.family,
    "vocab_size": config.vocab_size,
    "hidden_size": config.hidden,
    "num_hidden_layers": config.layers,
    "num_attention_heads": config.heads,
    "num_key_value_heads": config.kv_heads,
    "head_dim": config.head_dim,
    "intermediate_size": config.ffn,
    "hidden_act": "silu",
    "rms_norm_eps": config.norm_epsilon,
    "max_position_embeddings": config.max_positions,
    # Both spellings: transformers 5 reads rope_parameters, transformers 4 the other two.
    "rope_parameters": {
      "rope_theta": config.rope_theta,
      **(write_rope_scaling(config.rope_scaling) or {"rope_type": "default"}),
    },
    "rope_theta": config.rope_theta,
    "rope_scaling": write_rope_scaling(config.rope_scaling),
    "tie_word_embeddings": config.tie_embeddings,
    "bos_token_id": config.bos_id,
    "eos_token_id": eos[0] if len(eos) == 1 else eos or None,
    "pad_token_id": config.pad_id,
    "dtype": "float32",
    "torch_dtype": "float32",
  }


def read_rope_scaling(config: dict[str, Any]) -> RopeScaling | None:
  """`rope_parameters` (transformers 5) or `rope_scaling` (before), or None where nothing is stretched."""
  key = "rope_parameters" if config.get("rope_parameters") else "rope_scaling"
  rule = config.get(key)
  if not rule:
    return None
  if not isinstance(rule, dict):
    raise WeightsError(f"config.json: {key} is {rule!r}; it must be an object")
  refuse_unless(rule, "partial_rotary_factor", 1.0, where=f"{key}.")
  kind = rule.get("rope_type", rule.get("type", "default"))
  if kind == "default":
    return None
  if kind == "linear":
    return RopeScaling("linear", number(rule, "factor", where=f"{key}."))
  if kind == "llama3":
    return RopeScaling(
      "llama3",
      factor=number(rule, "factor", where=f"{key}."),
      low_freq_factor=number(rule, "low_freq_factor", where=f"{key}."),
      high_freq_factor=number(rule, "high_freq_factor", where=f"{key}."),
      original_max_positions=integer(rule, "original_max_position_embeddings", where=f"{key}."),
    )
  raise WeightsError(f"config.json: {key}.rope_type is {kind!r}; supported: default, linear, llama3")


def write_rope_scaling(scaling: RopeScaling | None) -> dict[str, Any] | None:
  if scaling is None:
    return None
  if scaling.kind == "linear":
    return {"rope_type": "linear", "factor": scaling.factor}
  return {
    "rope_type": scaling.kind,
    "factor": scaling.factor,
    "low_freq_factor": scaling.low_freq_factor,
    "high_freq_factor": scaling.high_freq_factor,
    "original_max_position_embeddings": scaling.original_max_positions,
  }


def refuse_unless(config: dict[str, Any], key: str, supported, *, where: str = "") -> None:
  """An option that changes the model's arithmetic may be absent or `supported`, nothing else."""
  if config.get(key, supported) not in (supported, None):
    raise WeightsError(f"config.json: {where}{key} is {config[key]!r}; supported: {supported!r}")


def integer(config: dict[str, Any], key: str, default: int | None = None, *, where: str = "") -> int:
  value = config.get(key)
  value = default if value is None else value
  if isinstance(value, bool) or not isinstance(value, int) or value < 0:
    found = "missing" if value is None else repr(value)
    raise WeightsError(f"config.json: {where}{key} is {found}; it must be a whole number")
  return value


def number(config: dict[str, Any], key: str, default: float | None = None, *, where: str = "") -> float:
  value = config.get(key)
  value = default if value is None else value
  if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
    found = "missing" if value is None else repr(value)
    raise WeightsError(f"config.json: {where}{key} is {found}; it must be a number above 0")
  return float(value)
