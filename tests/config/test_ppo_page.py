"""docs/ppo.md names keys that exist, with the defaults that they have."""

import pathlib
import re

from dpojax.config.resolved import POLICY_GRADIENT as DEFAULTS
from dpojax.config.schema import RunConfig

LINES = (pathlib.Path(__file__).parents[2] / "docs" / "ppo.md").read_text(encoding="utf-8").splitlines()
TABLE = [re.split(r"(?<!\\)\|", line)[1:-1] for line in LINES if line.startswith("|")]


def default_of(key):
  section, _, name = key.rpartition(".")
  return getattr(getattr(RunConfig(), section or "policy_gradient"), name)


def is_said(default, said):
  """Whether a default is what the page says of it in its first word."""
  if isinstance(default, bool):
    return said == ("on" if default else "off")
  if isinstance(default, str):
    return said == default if default else said in ("none", "empty")
  return float(said.replace(",", "")) == default


def test_keys_and_defaults_of_the_24_details():
  rows = [cells for cells in TABLE if cells[0].strip().isdigit()]
  assert [int(cells[0]) for cells in rows] == list(range(1, 25))
  without = set()
  for number, _, option, _ in rows:
    for key, value, said in re.findall(r"`([a-z_.]+)(=[a-z_]+)?`(?: \(([^ ;:)]+))?", option):
      default = default_of(key)
      assert not said or is_said(default, said), f"detail {number}: {key} is {default}, not {said}"
      without |= set() if said or value else {key}
  assert without == {"reference.every", "reference.mix", "rollout.seed", "checkpoint.every"}


def test_defaults_of_the_methods():
  rows = {cells[0].strip(" `"): cells for cells in TABLE if cells[0].strip(" `") in DEFAULTS}
  assert set(rows) == set(DEFAULTS)
  for name, (reduction, whiten, kl) in DEFAULTS.items():
    _, _, where, *rest = rows[name]
    assert [cell.strip(" `") for cell in rest] == [reduction, whiten]
    assert ("loss" if "in the loss" in where else "reward") == kl
