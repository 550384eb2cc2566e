"""The functions shown in docs/rewards.md do what they say, and the table there has every kind and option."""

import pathlib
import re

import pytest

from dpojax.rewards.build import build
from dpojax.rewards.judge import build_judge
from dpojax.rewards.reward import PromptedAnswer
from dpojax.rewards.spec import read_judge, read_reward
from dpojax.rewards.terms import KINDS

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")
FILES = {name: block for name, block in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name, block in FILES.items():
    (tmp_path / name).write_text(block)


def answers(*texts):
  return [PromptedAnswer("p", text, details={"topic": "sky"}, finished=text != "the sky") for text in texts]


def test_the_functions_shown(folder):
  brevity, topic = (
    build(read_reward(f"python:rewards.py:{name}", "reward"), load=pytest.fail) for name in ("brevity", "on_topic")
  )
  assert brevity(answers("", "a b c")).tolist() == pytest.approx([1, 0.7])
  assert topic(answers("a sky", "the sky", "no")).tolist() == [0.7, 0, 0]
  judge = build_judge(read_judge("judge:judges.py:shorter", "judge"), pytest.fail)
  assert judge(answers("a", "bb", "c"), answers("bb", "a", "d")).tolist() == [1, 0, 0.5]


def test_every_kind_and_option_is_in_the_table():
  rows = dict(re.findall(r"^\| `(\w+)[^`]*` \|(.*)$", PAGE, re.MULTILINE))
  assert rows.keys() == KINDS.keys()
  for name, kind in KINDS.items():
    assert set(re.findall(r"`(\w+)=\w+`", rows[name])) == kind.options.keys()


def test_the_settings_shown_can_be_read():
  shown = re.findall(r'(?:rewards|reward)="([^"]+)"', PAGE)
  assert len(shown) == 6
  for text in shown:
    for part in text.split(", "):
      assert read_reward(part, "reward").terms
