"""The language of rewards: what is written is what is meant, and what is wrong is said."""

import doctest

import hypothesis.strategies as st
import pytest
from hypothesis import given

from dpojax.errors import ConfigError
from dpojax.rewards import spec as spec_module
from dpojax.rewards.spec import read_judge, read_reward, read_rewards
from dpojax.rewards.terms import RewardSpec, TermSpec

KEY = "monitor.rewards"


def terms(text):
  return read_reward(text, KEY).terms


@pytest.mark.parametrize(
  "text, expected",
  [
    ("true", [TermSpec("true")]),
    (" model:runs/r?less=1.5&normalised=true ", [TermSpec("model", "runs/r", (("less", 1.5), ("normalised", True)))]),
    ("-0.1*length", [TermSpec("length", weight=-0.1)]),
    ("2 * true + 1e-3*length", [TermSpec("true", weight=2.0), TermSpec("length", weight=1e-3)]),
    ("model:my runs/r + true", [TermSpec("model", "my runs/r"), TermSpec("true")]),
    ("regex:a+b*", [TermSpec("regex", "a+b*")]),  # no spaces around: no sum
    ("regex:'a, b + c?'?count=true", [TermSpec("regex", "a, b + c?", (("count", True),))]),
    ('regex:"it\'s"', [TermSpec("regex", "it's")]),
    ("regex:'it''s \"so\"'", [TermSpec("regex", 'it\'s "so"')]),
    ("python:lib/my.py:brevity", [TermSpec("python", "lib/my.py:brevity")]),
    ("python:'a, b.py':f", [TermSpec("python", "a, b.py:f")]),
    (
      "implicit:stage:dpo?reference='a&b'&beta=2",
      [TermSpec("implicit", "stage:dpo", (("reference", "a&b"), ("beta", 2.0)))],
    ),
  ],
)
def test_terms(text, expected):
  assert list(terms(text)) == expected


def test_several_and_their_names():
  found = read_rewards("true,short=-1*length , model:runs/a/r/ + true, model:x/checkpoints/20", KEY)
  assert [spec.label for spec in found] == ["true", "short", "r+true", "x-20"]
  assert [len(spec.terms) for spec in found] == [1, 1, 2, 1]
  assert found[2].paths == ("runs/a/r/",)
  assert read_reward("python:m.py:f + 2*python:m.py:g + implicit:p?reference=q", KEY).files == ("m.py",)
  assert read_reward("python:m.py:f + implicit:p?reference=q", KEY).paths == ("p", "q")


@pytest.mark.parametrize(
  "text, label",
  [
    ("regex:sorry", "sorry"),
    ("regex:'^(we|I) '", "__we_I__"),
    ("regex:'...'", "regex"),
    ("regex:" + "a" * 100, "a" * 40),
    ("python:f.py:my_reward", "my_reward"),
    ("model:stage:reward", "reward"),
    ("model:pypi:some/thing", "thing"),
  ],
)
def test_labels_are_fit_for_names_of_metrics(text, label):
  assert read_reward(text, KEY).label == label


def test_auto_is_the_true_reward_where_there_is_one():
  assert [str(spec) for spec in read_rewards("auto", KEY, environment=True)] == ["true"]
  assert read_rewards("auto", KEY) == read_rewards("  ", KEY) == ()
  with pytest.raises(ConfigError, match=r"pairs.reward wants one reward, got 'auto', which is none"):
    read_reward("auto", "pairs.reward")


def test_judges():
  assert read_judge("judge:lib/j.py:better", "monitor.judge").function == ("lib/j.py", "better")
  assert read_judge("judge:'a, b.py':better", "monitor.judge").function == ("a, b.py", "better")
  assert read_judge("true", "monitor.judge") == read_reward("true", KEY)


KINDS = {
  "true": (None, []),
  "model": ("path", ["less", "normalised"]),
  "implicit": ("path", ["beta", "reference"]),
  "sentiment": (None, []),
  "length": (None, []),
  "regex": ("pattern", ["count"]),
  "python": ("function", []),
}
NUMBERS = st.floats(1e-9, 1e9)
TEXTS = st.text("ab1 ,?&+*'\"=:/.-", min_size=1).filter(lambda text: text.strip() == text)
VALUES = {"less": NUMBERS, "beta": NUMBERS, "normalised": st.booleans(), "count": st.booleans(), "reference": TEXTS}
ARGUMENTS = {
  None: st.just(""),
  "path": TEXTS,
  "pattern": st.text("ab ,'\"=:/.-", min_size=1),
  "function": st.tuples(TEXTS, st.sampled_from(["f", "a_b"])).map(":".join),
}


@st.composite
def written_terms(draw):
  kind = draw(st.sampled_from(sorted(KINDS)))
  argument, options = KINDS[kind]
  chosen = draw(st.lists(st.sampled_from(options), unique=True)) if options else []
  weight = draw(st.just(1.0) | NUMBERS | NUMBERS.map(lambda x: -x))
  return TermSpec(kind, draw(ARGUMENTS[argument]), tuple((name, draw(VALUES[name])) for name in chosen), weight)


@given(
  st.lists(written_terms(), min_size=1, max_size=4, unique_by=lambda term: term.text), st.sampled_from(["", "my.name"])
)
def test_what_is_printed_is_read_back(found, name):
  label = name or "+".join(dict.fromkeys(term.label for term in found))
  spec = RewardSpec(label, tuple(found), bool(name))
  assert read_rewards(str(spec), KEY) == (spec,)
  assert read_rewards(f"{spec}, y=true,z=length", KEY)[0] == spec


@pytest.mark.parametrize(
  "text, message",
  [
    ("regexp:a", "no kind of reward 'regexp'; there is true, model, .*; did you mean 'regex'"),
    ("runs/r", "no kind of reward 'runs/r'; .*a path needs its kind, as in model:runs/r"),
    ("mine.py:f", "a path needs its kind, as in python:mine.py"),
    ("auto, true", "auto stands alone"),
    ("judge:a.py:f", "judge compares two answers and is no reward; it serves monitor.judge"),
    ("true - 0.1*length", "a sum is joined by ' \\+ '; subtract with a weight below 0"),
    ("true + ", "a reward is missing at its end"),
    ("true, ", "a reward is missing at its end"),
    (",true", "cannot read ',true'; write"),
    ("true length", "cannot read 'length'; write"),
    ("model", "model wants the PATH of a reward model, as in model:"),
    ("model:", "model wants the PATH"),
    ("true:x", "true takes no argument, got 'x'"),
    ("regex:colou?r", "after '\\?' regex wants option=value, got 'r'; .* in quotes, as in regex:'...'"),
    ("model:x?les=1", "model has no option 'les'; it has less, normalised; did you mean 'less'"),
    ("length?words=1", "length has no option 'words'; it has none"),
    ("model:x?less=none", "the option less of model wants a number above 0, got 'none'"),
    ("model:x?less=1&less=2", "model has the option 'less' twice"),
    ("regex:a?count=yes", "the option count of regex wants true or false, got 'yes'"),
    ("regex:(", "regex:\\( is no regular expression: missing \\)"),
    ("regex:'a", "a quote is opened and not closed: 'a; inside quotes write ' twice for one"),
    ("0*true", "the weight 0 must be a finite number other than 0"),
    ("1e999*true", "the weight 1e999 must be a finite number"),
    ("python:a.py", "python:a.py: wants FILE:FUNCTION"),
    ("2*true + true", "true comes twice in a sum; give it one weight"),
    ("model:a/r, model:b/r", "two rewards are called 'r' .*; give one a name of its own: NAME=model:b/r"),
  ],
)
def test_what_is_wrong_is_said_with_its_setting(text, message):
  with pytest.raises(ConfigError, match=f"{KEY}.*{message}"):
    read_rewards(text, KEY)


def test_the_examples_run():
  assert doctest.testmod(spec_module).failed == 0
