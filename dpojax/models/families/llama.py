"""Llama 2 and 3, TinyLlama, SmolLM2 (Touvron et al. 2023, arXiv:2307.09288; Grattafiori et al. 2024, arXiv:2407.21783)."""

from typing import Any

from dpojax.interop.json_object import boolean
from dpojax.models.families.common import Family, read_decoder, write_decoder

TENSORS = {
  "embed": "model.embed_tokens.weight",
  "layers/attention_norm": "model.layers.{layer}.input_layernorm.weight",
  "layers/query": "model.layers.{layer}.self_attn.q_proj.weight",
  "layers/key": "model.layers.{layer}.self_attn.k_proj.weight",
  "layers/value": "model.layers.{layer}.self_attn.v_proj.weight",
  "layers/output": "model.layers.{layer}.self_attn.o_proj.weight",
  "layers/query_bias": "model.layers.{layer}.self_attn.q_proj.bias",
  "layers/key_bias": "model.layers.{layer}.self_attn.k_proj.bias",
  "layers/value_bias": "model.layers.{layer}.self_attn.v_proj.bias",
  "layers/output_bias": "model.layers.{layer}.self_attn.o_proj.bias",
  "layers/feed_forward_norm": "model.layers.{layer}.post_attention_layernorm.weight",
  "layers/gate": "model.layers.{layer}.mlp.gate_proj.weight",
  "layers/up": "model.layers.{layer}.mlp.up_proj.weight",
  "layers/down": "model.layers.{layer}.mlp.down_proj.weight",
  "layers/gate_bias": "model.layers.{layer}.mlp.gate_proj.bias",
  "layers/up_bias": "model.layers.{layer}.mlp.up_proj.bias",
  "layers/down_bias": "model.layers.{layer}.mlp.down_proj.bias",
  "final_norm": "model.norm.weight",
  "head": "lm_head.weight",
}


def read(config: dict[str, Any]) -> dict[str, Any]:
  return read_decoder(
    config,
    "llama",
    attention_bias=boolean(config, "attention_bias", False),
    mlp_bias=boolean(config, "mlp_bias", False),
  )


def write(config: Any) -> dict[str, Any]:
  return {
    **write_decoder(config, "LlamaForCausalLM"),
    "attention_bias": config.attention_bias,
    "mlp_bias": config.mlp_bias,
  }


LLAMA = Family("llama", "LlamaForCausalLM", "LlamaForSequenceClassification", read, write, TENSORS)
