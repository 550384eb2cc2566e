"""Small real tokenizers and random models for rewards."""

import dataclasses
from typing import Any

import jax
import pytest

from dpojax.interop.tokenizer import Tokenizer
from dpojax.models.config import ModelConfig
from dpojax.models.language_model import LanguageModel
from dpojax.models.reward_model import RewardModel
from tests.data.conftest import CHATML, LLAMA, trained


@dataclasses.dataclass(frozen=True)
class Made:
  """What `load` gives, without a digest."""

  model: Any
  params: Any
  tokenizer: Tokenizer


def decoder(tokenizer, positions=256):
  config = ModelConfig(
    vocab_size=tokenizer.vocab_size,
    hidden=16,
    layers=2,
    heads=2,
    kv_heads=1,
    ffn=24,
    max_positions=positions,
    eos_ids=tokenizer.eos_ids,
  )
  return LanguageModel(config)


def reward_model(tokenizer, heads=1, seed=0, positions=256):
  model = RewardModel(decoder(tokenizer, positions), heads)
  return Made(model, jax.device_get(model.init(jax.random.key(seed))), tokenizer)


def language_model(tokenizer, seed=0, positions=256):
  model = decoder(tokenizer, positions)
  params = jax.device_get(model.init(jax.random.key(seed)))
  params["embed"] = params["embed"] * 10  # far from uniform
  return Made(model, params, tokenizer)


@pytest.fixture(scope="session")
def chatml() -> Tokenizer:
  special = {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>"}
  return Tokenizer(trained(["<|im_start|>", "<|im_end|>"]), special_tokens=special, chat_template=CHATML)


@pytest.fixture(scope="session")
def plain(chatml) -> Tokenizer:
  """As `chatml`, without its template."""
  return chatml.with_template(None)


@pytest.fixture(scope="session")
def other() -> Tokenizer:
  """Other ids and another template."""
  backend = trained(["<s>", "</s>", "<pad>"])
  return Tokenizer(backend, special_tokens={"eos_token": "</s>", "bos_token": "<s>"}, chat_template=LLAMA)
