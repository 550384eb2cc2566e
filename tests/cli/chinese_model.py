"""A tiny model folder whose tokenizer is byte-level BPE learned from the 50 Chinese pairs of tests/data/chinese_pairs.jsonl."""

import json
import pathlib
from collections.abc import Iterable

import jax
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from dpojax.interop.files import write_model_folder
from dpojax.interop.tokenizer import Tokenizer
from dpojax.models.config import ModelConfig
from dpojax.models.language_model import LanguageModel
from dpojax.models.weights import tensors_from_params

PAIRS = pathlib.Path(__file__).parents[1] / "data" / "chinese_pairs.jsonl"


def chinese_tokenizer(vocabulary: int = 800) -> Tokenizer:
  """Characters of Chinese are one to three tokens each."""
  rows = map(json.loads, PAIRS.read_text(encoding="utf-8").splitlines())
  return bytes_tokenizer((text for row in rows for text in row.values()), vocabulary)


def bytes_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
  """Byte-level BPE learned from these texts."""
  backend = tokenizers.Tokenizer(models.BPE())
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  backend.decoder = decoders.ByteLevel()
  alphabet = pre_tokenizers.ByteLevel.alphabet()
  trainer = trainers.BpeTrainer(
    vocab_size=vocabulary, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
  )
  backend.train_from_iterator(texts, trainer)
  return Tokenizer(backend, special_tokens={"eos_token": "<end>", "pad_token": "<end>"})


def write_chinese_model(folder: pathlib.Path) -> str:
  """Writes the folder; returns what `--model` takes."""
  return write_model(folder, chinese_tokenizer())


def write_model(folder: pathlib.Path, tokenizer: Tokenizer) -> str:
  """Writes a random model with this tokenizer as a transformers folder; returns what `--model` takes."""
  config = ModelConfig(
    vocab_size=tokenizer.vocab_size,
    hidden=32,
    layers=2,
    heads=2,
    kv_heads=2,
    ffn=64,
    max_positions=256,
    eos_ids=tokenizer.eos_ids,
  )
  params = jax.device_get(LanguageModel(config).init(jax.random.key(0)))
  tensors = tensors_from_params(config, params)
  write_model_folder(folder, config.to_transformers(), tensors, tokenizer, {}, max_shard_bytes=10**9)
  return str(folder)
