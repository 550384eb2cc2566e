"""Sizes beyond any memory are refused by name, before anything is allocated."""

import types

import jax.numpy as jnp
import pytest

from dpojax.bradley_terry import Comparisons, bootstrap, fit, resampling
from dpojax.cli import main as command
from dpojax.config.check import check_value
from dpojax.config.keys import fields_by_key
from dpojax.config.option import LONGEST_ROW, MOST_ROWS
from dpojax.errors import ConfigError, DataError
from dpojax.models import memory
from dpojax.models.config import ModelConfig
from dpojax.models.parameters import decoder_parameters
from dpojax.ops import attention_blocks
from dpojax.ops.attention import BLOCK

WHOLE = [key for key, field in fields_by_key().items() if field.metadata["kind"] is int]


@pytest.mark.parametrize("key", WHOLE)
@pytest.mark.parametrize("value", [10**30, 2**31])
def test_no_whole_number_has_more_than_32_bits(key, value):
  with pytest.raises(ConfigError, match=rf"{key} must be (at most|below) \d+"):
    check_value(key, value)


def test_rows_are_what_attention_can_list():
  """The largest rows have lists of visits; one block or one row more has none."""
  blocks = LONGEST_ROW // BLOCK
  for rows, number in ((MOST_ROWS + 1, 1), (1, blocks + 1)):
    with pytest.raises(ValueError, match="do not fit"):
      attention_blocks.visits(jnp.ones((rows, number, number), bool))
  number, visits = attention_blocks.visits(jnp.ones((MOST_ROWS, 1, 1), bool))
  assert number == MOST_ROWS and visits[MOST_ROWS - 1] >> 20 == MOST_ROWS - 1


WIDE = ModelConfig(vocab_size=10, hidden=1000, layers=10, heads=1, kv_heads=1, ffn=1000, max_positions=8)


def test_what_no_memory_holds_is_refused(monkeypatch):
  monkeypatch.setattr(memory, "memory_of_devices", lambda: 3 * 10**9)
  parameters = (
    10 * 7 * 1000**2 + 10 * 2 * 1000 + 1000 + 10 * 1000
  )  # 7 square matrices and 2 norms a layer, all norms, words
  memory.check_parameters(decoder_parameters(WIDE), "model.hidden")
  memory.check_row_group(WIDE, 10, 14_999)  # 10 rows * 14,999 tokens * 10 layers * 1000 * 2 bytes
  with pytest.raises(
    ConfigError, match=r"10 rows of 15,001 tokens would take at least 3 GB, .* have 3; lower batch.rows"
  ):
    memory.check_row_group(WIDE, 10, 15_001)
  monkeypatch.setattr(memory, "memory_of_devices", lambda: 8 * parameters - 1)
  with pytest.raises(ConfigError, match=r"at least 1 GB, .* lower model.hidden"):
    memory.check_parameters(decoder_parameters(WIDE), "model.hidden")
  monkeypatch.setattr(memory, "memory_of_devices", lambda: 8 * parameters)
  memory.check_parameters(decoder_parameters(WIDE), "model.hidden")


def test_a_container_has_less_than_its_machine(monkeypatch, tmp_path):
  monkeypatch.setattr(memory, "CGROUP_LIMIT", tmp_path / "memory.max")
  machine = memory.memory_of_devices()
  assert machine is not None and machine > 10**8
  (tmp_path / "memory.max").write_text("max\n")
  assert memory.memory_of_devices() == machine
  (tmp_path / "memory.max").write_text("12345678\n")
  assert memory.memory_of_devices() == 12345678


def test_resamples_are_bounded(monkeypatch):
  found = fit(Comparisons.from_pairs(["a", "b", "a"], ["b", "a", "b"]))
  for n in (0, resampling.MOST_RESAMPLES + 1):
    with pytest.raises(DataError, match=r"resamples; give from 1 to 1,000,000"):
      bootstrap(found, n)
  monkeypatch.setattr(resampling, "MOST_BYTES", 160)
  with pytest.raises(DataError, match="11 resamples of 2 items take 0 GB; at most 10 fit"):
    bootstrap(found, 11)
  assert bootstrap(found, 10).log_strength.shape == (10, 2)


@pytest.mark.parametrize(
  "error, told",
  [
    (MemoryError("Unable to allocate 954. GiB"), "no memory is left (Unable to allocate 954. GiB)"),
    (MemoryError(), "no memory is left (an allocation failed)"),
    (type("JaxRuntimeError", (RuntimeError,), {})("RESOURCE_EXHAUSTED: 9 GB\nmore"), "(RESOURCE_EXHAUSTED: 9 GB)"),
    (type("JaxRuntimeError", (RuntimeError,), {})("INTERNAL: wrong"), None),
    (RuntimeError("Out of memory, as somebody says"), None),
  ],
)
def test_a_lack_of_memory_is_one_line(monkeypatch, capsys, error, told):
  def fail(_):
    raise error

  monkeypatch.setattr(command.importlib, "import_module", lambda _: types.SimpleNamespace(main=fail))
  if told is None:
    with pytest.raises(type(error)):
      command.run(["score"])
    return
  assert command.run(["score"]) == 1
  said = capsys.readouterr().err
  assert told in said and said.count("\n") == 1
