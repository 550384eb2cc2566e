"""Tables and samples as text: alignment, wrapping, and nothing a model wrote escapes its cell."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpojax.report import plots, tables
from dpojax.report.labels import HELD_OUT, POLICY
from dpojax.report.samples import side_by_side, side_by_side_markdown


def sample(answer, prompt="a prompt"):
  return {"prompt": prompt, "answer": answer, "tokens": 3, "finished": True}


@pytest.mark.parametrize("module", [tables, plots])
def test_examples_in_docstrings(module):
  result = doctest.testmod(module)
  assert result.attempted > 0 and result.failed == 0


@given(st.text(), st.text(), st.integers(40, 200))
def test_columns_stay_within_the_width_and_obey_no_control_character(before, after, width):
  text = side_by_side([sample(before)], [sample(after)], width=width)
  assert all(len(line) <= max(43, width) for line in text.split("\n"))
  assert all(c == "\n" or c.isprintable() for c in text)


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
  assert POLICY["reward/true"].format(2.4634, 0.1) == "2.463 ± 0.100"
  assert POLICY["kl/token"].axis() == "KL to the reference (nats a token)"
