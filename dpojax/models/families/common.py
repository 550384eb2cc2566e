"""What families share: reading and writing the keys of a transformers `config.json`."""

import dataclasses
from collections.abc import Callable
from typing import Any

from dpojax.errors import WeightsError
from dpojax.interop.json_object import boolean, integer, number, token_id, token_ids
from dpojax.ops.rotary import RopeScaling

# Keys with which other families' code, or later code of these, computes something else -> the values that change nothing.
ARITHMETIC: dict[str, tuple[Any, ...]] = {
  "hidden_act": ("silu",),
  "quantization_config": (),
  "compression_config": (),
  "partial_rotary_factor": (1,),
  "rotary_emb_base": (),
  "rope_interleaved": (False,),
  "no_rope_layers": ([],),
  "clip_qkv": (),
  "attn_logit_softcapping": (),
  "final_logit_softcapping": (),
  "logit_scale": (1,),
  "logits_scaling": (1,),
  "embedding_multiplier": (1,),
  "scale_emb": (1,),
  "attention_multiplier": (),
  "residual_multiplier": (1,),
  "query_pre_attn_scalar": (),
  "use_parallel_residual": (False,),
  "num_local_experts": (0, 1),
  "is_encoder_decoder": (False,),
}


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
  for key, neutral in ARITHMETIC.items():
    refuse_unless(config, key, *neutral)
  attention = "full_attention" if options.get("window") is None else "sliding_attention"
  kinds = config.get("layer_types") or ()
  if not isinstance(kinds, list | tuple):
    raise WeightsError(f"config.json: layer_types is {kinds!r}; it must be a list, one kind a layer")
  for layer, kind in enumerate(kinds):
    if kind != attention:
      raise WeightsError(f"config.json: layer_types[{layer}] is {kind!r}; supported here: {attention!r} in every layer")
  heads = integer(config, "num_attention_heads")
  theta, scaling = read_rope(config)
  return dict(
    family=family,
    vocab_size=integer(config, "vocab_size"),
    hidden=integer(config, "hidden_size"),
    layers=integer(config, "num_hidden_layers"),
    heads=heads,
    kv_heads=integer(config, "num_key_value_heads", heads),
    head_dim=0 if config.get("head_dim") is None else integer(config, "head_dim"),
    ffn=integer(config, "intermediate_size"),
    norm_epsilon=number(config, "rms_norm_eps", 1e-6, most=1.0),
    max_positions=integer(config, "max_position_embeddings", 2048),
    rope_theta=theta,
    rope_scaling=scaling,
    tie_embeddings=boolean(config, "tie_word_embeddings", False),
    bos_id=token_id(config, "bos_token_id", 1),  # transformers' defaults for these families
    eos_ids=token_ids(config, "eos_token_id", 2),
    pad_id=token_id(config, "pad_token_id", None),
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


def read_rope(config: dict[str, Any]) -> tuple[float, RopeScaling | None]:
  """(theta, scaling or None) from `rope_parameters` (transformers 5), `rope_scaling` and `rope_theta` (before).

  A file may hold several of them. What one leaves out another may say: transformers 5, too, takes `rope_theta` from the top
  where `rope_parameters` has none.

  Raises:
    WeightsError: two of them contradict each other, or a value is not of its kind.
  """
  rules: dict[str, dict[str, Any]] = {}
  for key in ("rope_parameters", "rope_scaling"):
    rule = config.get(key)
    if rule is not None and not isinstance(rule, dict):
      raise WeightsError(f"config.json: {key} is {rule!r}; it must be an object")
    if rule:
      rules[key] = rule
  thetas = {
    f"{key}.rope_theta": rule["rope_theta"] for key, rule in rules.items() if rule.get("rope_theta") is not None
  }
  if config.get("rope_theta") is not None:
    thetas["rope_theta"] = config["rope_theta"]
  theta = _agreed({key: number({key: value}, key) for key, value in thetas.items()}, 10_000.0)
  return theta, _agreed({key: _rope_scaling(key, rule) for key, rule in rules.items()}, None)


def _agreed(found: dict[str, Any], default: Any) -> Any:
  """The one value that all keys say; `default` where none does."""
  (first, value), *others = found.items() or [("", default)]
  for key, other in others:
    if other != value:
      raise WeightsError(
        f"config.json: {first} says {value!r} and {key} says {other!r}; keep the one that the model was trained with"
      )
  return value


def _rope_scaling(key: str, rule: dict[str, Any]) -> RopeScaling | None:
  where = f"config.json: {key}."
  refuse_unless(rule, "partial_rotary_factor", 1.0, where=f"{key}.")
  kind = rule.get("rope_type", rule.get("type", "default"))
  if groups := [name for name, value in rule.items() if isinstance(value, dict)]:
    raise WeightsError(f"{where}{groups[0]} is an object; supported: one setting for all layers, not one for each kind")
  if kind == "default":
    refuse_unless(rule, "factor", 1, where=f"{key}.")
    return None
  if kind == "linear":
    return RopeScaling("linear", number(rule, "factor", where=where))
  if kind == "llama3":
    low, high = (number(rule, name, where=where) for name in ("low_freq_factor", "high_freq_factor"))
    if low >= high:
      raise WeightsError(f"{where}low_freq_factor is {low:g}; it must be below high_freq_factor, {high:g}")
    return RopeScaling(
      "llama3",
      factor=number(rule, "factor", where=where),
      low_freq_factor=low,
      high_freq_factor=high,
      original_max_positions=integer(rule, "original_max_position_embeddings", where=where),
    )
  raise WeightsError(f"{where}rope_type is {kind!r}; supported: default, linear, llama3")


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


def refuse_unless(config: dict[str, Any], key: str, *supported: Any, where: str = "") -> None:
  """An option that changes the model's arithmetic may be absent, null or `supported`, nothing else."""
  if config.get(key) not in (*supported, None):
    known = " or ".join(map(repr, supported)) or "None"
    raise WeightsError(f"config.json: {where}{key} is {config[key]!r}; supported: {known}")
