"""Tables and samples as text: alignment, wrapping, and nothing a model wrote escapes its cell."""

import doctest
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpojax import terminal
from dpojax.report import plots, policy_plots, tables
from dpojax.report.labels import HELD_OUT, POLICY, Label, policy_labels, shown
from dpojax.report.samples import side_by_side, side_by_side_markdown
from dpojax.screen import Table
from dpojax.training import numbers


def sample(answer, prompt="a prompt"):
  return {"prompt": prompt, "answer": answer, "tokens": 3, "finished": True}


@pytest.mark.parametrize("module", [tables, plots, policy_plots, numbers])
def test_examples_in_docstrings(module):
  result = doctest.testmod(module)
  assert result.attempted > 0 and result.failed == 0


LABELS = [f"{label.name}, {label.unit}" for label in (*HELD_OUT.values(), *POLICY.values())]


@pytest.mark.parametrize("width", [80, 100, 0])
def test_a_report_fits_its_terminal_and_loses_no_word(width):
  rows = [["held out", "", ""], *([f"  {name}", "100.0 % (21.5 to 78.5)", "-12.345 ± 0.123"] for name in LABELS)]
  text = Table(["", "before", "after"], rows).text(width)
  assert not width or max(map(len, text.split("\n"))) <= width
  assert text.split() == " ".join(["before after", *(" ".join(row) for row in rows)]).split()
  if not width:
    assert len(text.split("\n")) == len(rows) + 1


@given(st.text(st.characters(exclude_categories=[])), st.text(), st.integers(40, 200))
def test_columns_stay_within_the_width_and_obey_no_control_character(before, after, width):
  text = side_by_side([sample(before)], [sample(after)], width=width)
  assert all(terminal.width(line) <= max(43, width) for line in text.split("\n"))
  assert all(c == "\n" or unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") for c in text)


def test_both_columns_keep_every_word():
  before, after = "one two three " * 20, "four five\nsix " * 10
  text = side_by_side([sample(before)], [sample(after)], width=60)
  left = " ".join(line.split("|")[0].strip() for line in text.split("\n")[2:])
  right = " ".join(line.split("|")[1].strip() for line in text.split("\n")[2:] if "|" in line)
  assert left.split() == before.split() and right.split() == after.split()


@given(st.text(), st.text())
def test_markdown_keeps_three_lines_a_table(before, after):
  lines = side_by_side_markdown([sample(before)], [sample(after)]).split("\n")
  assert len(lines) == 5
  assert lines[4].replace("\\|", "").count("|") == 3
  assert "<" not in lines[4].replace("<br>", "")


def test_values_as_people_read_them():
  assert HELD_OUT["rewards/accuracies"].format(0.7161) == "71.6 %"
  assert HELD_OUT["loss"].format(0.693147) == "0.6931"
  assert HELD_OUT["loss"].format(None) == "-"
  assert HELD_OUT["rewards/margins"].format(-5.7e-9) == "0.0000"
  assert Label("true reward", decimals=3).format(2.4634, 0.1) == "2.463 ± 0.100"
  assert POLICY["kl/token"].axis() == "KL to the reference (nats a token)"


def test_rewards_come_first_and_their_errors_are_no_rewards():
  names = ["kl/token", "reward/b", "reward/b_error", "reward/true", "reward/true_error", "reward/of_error", "unknown"]
  labels = policy_labels(names)
  assert list(labels) == ["reward/true", "reward/b", "reward/of_error", "kl/token"]
  assert [label.name for label in labels.values()][:2] == ["true reward", "reward b"]


def test_an_interval_follows_its_value():
  metrics = {
    "win_rate": 0.612,
    "win_rate_low": 0.55,
    "win_rate_high": 0.67,
    "kl/token": 0.1311,
    "kl/token_error": 0.004,
  }
  assert shown(POLICY["win_rate"], metrics, "win_rate") == "61.2 % (55.0 to 67.0)"
  assert shown(POLICY["kl/token"], metrics, "kl/token") == "0.1311 ± 0.0040"
  assert shown(POLICY["win_rate"], {}, "win_rate") == "-"


def test_every_reward_of_an_answer_is_in_its_caption():
  scored = sample("dear anna") | {"rewards": {"true": 1.5, "model:runs/reward": "nan"}, "kl": 0.2, "finished": False}
  page = side_by_side_markdown([sample("hello")], [scored])
  assert "| before: 3 tokens | after: 3 tokens, true reward 1.50, reward model:runs/reward nan, cut off |" in page
