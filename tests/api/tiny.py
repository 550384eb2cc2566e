"""Small things for runs of the short door: a model of some thousand parameters, rows of words."""

import numpy as np
import pytest

import dpojax
from tests.training.runs import write_tiny_model

SHORT = {"monitor.prompts": 0, "logging.plots": False, "batch.row_length": 48}


def words(draws, count):
  return " ".join(f"word{number}" for number in draws.integers(0, 30, count))


def make_rows(count=40):
  draws = np.random.default_rng(0)
  return [{"prompt": words(draws, 4), "chosen": words(draws, 5), "rejected": words(draws, 3)} for _ in range(count)]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
  return dpojax.load(str(write_tiny_model(tmp_path_factory.mktemp("model"))))
