"""Mistral 7B (Jiang et al. 2023, arXiv:2310.06825): Llama's blocks with a sliding window."""

from typing import Any

from dpojax.interop.json_object import integer
from dpojax.models.families.common import Family, read_decoder, write_decoder
from dpojax.models.families.llama import TENSORS


def read(config: dict[str, Any]) -> dict[str, Any]:
  # An absent key means transformers' default window; null means none (v0.2 and later).
  window = integer(config, "sliding_window", 4096) if config.get("sliding_window", 4096) is not None else None
  return read_decoder(config, "mistral", window=window)


def write(config: Any) -> dict[str, Any]:
  return {**write_decoder(config, "MistralForCausalLM"), "sliding_window": config.window}


MISTRAL = Family("mistral", "MistralForCausalLM", "MistralForSequenceClassification", read, write, TENSORS)
