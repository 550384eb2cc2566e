"""Doors of Python that a case may take: each reads what a user hands over, and may raise nothing but an InputError."""

import functools
import math
from typing import Any

import numpy as np


@functools.lru_cache(maxsize=1)
def _tokenizer():
  from dpojax.interop.tokenizer import Tokenizer
  from tests.cli.tiny_model import TEMPLATE, WORDS

  return Tokenizer.from_words(WORDS, eos="<end>", unknown="<unk>", chat_template=TEMPLATE)


def _python(path: str) -> Any:
  """What a file of Python calls ROWS."""
  found: dict[str, Any] = {"nan": math.nan, "inf": math.inf, "np": np}
  with open(path, encoding="utf-8") as file:
    exec(file.read(), found)
  return found["ROWS"]


def rows(path: str, form: str, answers: str, template: str, overlong: str) -> None:
  """Rows in memory, as `dataset_from_rows` takes them."""
  from dpojax.config.schema import DataSettings
  from dpojax.data.dataset import dataset_from_rows
  from dpojax.types import Answers

  settings = DataSettings(source="file", path="rows", format=form, template=template, overlong=overlong)
  dataset_from_rows(_python(path), settings, _tokenizer(), answers=Answers[answers], row_length=40)


def model(path: str) -> None:
  """A model folder, weights and all."""
  from dpojax.training.model_files import load_model

  load_model(path)


def tokenizer(path: str) -> None:
  """A tokenizer, and what it makes of some text."""
  from dpojax.interop.tokenizer import Tokenizer

  found = Tokenizer.from_folder(path)
  ids = found.encode("is my parcel <end> sorry")
  found.decode(ids)
  found.pieces(ids)
  found.decode([0, 1], skip_special_tokens=True)
  found.encode_batch(["é \0 <end>", ""])


def gguf(path: str) -> None:
  """A GGUF file's config and weights, whatever its tokenizer."""
  from dpojax.interop.files import open_model_files
  from dpojax.models.config import ModelConfig
  from dpojax.models.weights import params_from_tensors

  files = open_model_files(path)
  params_from_tensors(ModelConfig.from_transformers(files.config), files.tensors)


def page(path: str) -> None:
  """What `dpojax report` shows, without drawing it."""
  from dpojax.report.page.content import content_of
  from dpojax.report.stages import find_stages

  content_of(*find_stages([path]), "")


def comparisons(path: str, *columns: str) -> None:
  """Games in memory, as `Comparisons` takes them."""
  from dpojax.bradley_terry import Comparisons, fit

  fit(Comparisons.from_pairs(*(_python(path)[name] for name in columns)), ties="half")


DOORS = {"rows": rows, "model": model, "tokenizer": tokenizer, "gguf": gguf, "page": page, "comparisons": comparisons}
