"""Rewards by rule and by the user's function: what they are given, what they may return, and what is said when they fail."""

import builtins
import sys

import numpy as np
import pytest

from dpojax.environments import get_environment
from dpojax.errors import ConfigError, DataError
from dpojax.rewards.build import build
from dpojax.rewards.reward import PromptedAnswer
from dpojax.rewards.spec import read_reward

MESSAGES = [{"role": "user", "content": "  hello?\n"}]


def make(text, **options):
  return build(read_reward(text, "pairs.reward"), load=lambda path: pytest.fail(f"{path} was loaded"), **options)


def said(*texts):
  return [PromptedAnswer("a prompt", text) for text in texts]


def user(tmp_path, code, name="mine.py"):
  (tmp_path / name).write_text(code)
  return make(f"python:{tmp_path / name}:reward")


def test_the_true_reward_is_the_environments():
  environment = get_environment("complaint_desk")
  prompt = environment.prompts(1, 0)[0]
  texts = [environment.good_answer(prompt), environment.answer(prompt, 3), ""]
  reward = make("true", environment=environment)
  expected = [environment.reward(prompt, text) for text in texts]
  assert len(set(expected)) > 1
  np.testing.assert_array_equal(reward([PromptedAnswer(prompt, text) for text in texts]), expected)
  as_message = [{"role": "user", "content": prompt}]  # what a chat template makes of the environment's prompt
  np.testing.assert_array_equal(reward([PromptedAnswer(as_message, text) for text in texts]), expected)
  with pytest.raises(DataError, match="not of a conversation of 2 messages"):
    reward([PromptedAnswer(as_message * 2, "yes")])


def test_sentiment_is_vaders_compound():
  found = make("sentiment")(
    said("What a wonderful, happy day!", "This is horrible. I hate it.", "The table is brown.", "")
  )
  # The package's README gives 0.8316 for "VADER is smart, handsome, and funny."
  assert make("sentiment")(said("VADER is smart, handsome, and funny.")) == [0.8316]
  assert found[0] > 0.5 and found[1] < -0.5
  assert found[2:].tolist() == [0, 0]


def test_sentiment_without_its_package_says_how_to_get_it(monkeypatch):
  real = builtins.__import__

  def missing(name, *arguments, **options):
    if name.startswith("vaderSentiment"):
      raise ModuleNotFoundError(name)
    return real(name, *arguments, **options)

  monkeypatch.delitem(sys.modules, "vaderSentiment.vaderSentiment", raising=False)
  monkeypatch.setattr(builtins, "__import__", missing)
  with pytest.raises(ConfigError, match=r"pairs.reward: sentiment .* pip install 'dpojax\[sentiment\]'"):
    make("sentiment")


def test_length_counts_what_was_written_else_the_texts_tokens(chatml):
  text = "the sky is blue"
  count = len(chatml.encode(text))
  cut = PromptedAnswer("p", text, finished=False)
  ended = PromptedAnswer("p", text)
  marked = PromptedAnswer("p", text + "<|im_end|>")
  sampled = PromptedAnswer("p", text, np.asarray([3]), np.asarray([4, 5, 1]))
  assert make("length", tokenizer=chatml)([cut, ended, marked, sampled]).tolist() == [count, count + 1, count + 1, 3]
  assert make("length")([sampled]).tolist() == [3]
  with pytest.raises(DataError, match=r"answer 0 \(prompt 'p'\): length counts tokens"):
    make("length")([ended])


def test_patterns():
  texts = said("sorry, sorry", "Sorry", "we are sorry", "")
  assert make("regex:sorry")(texts).tolist() == [1, 0, 1, 0]
  assert make("regex:sorry?count=true")(texts).tolist() == [2, 0, 1, 0]
  assert make("regex:'(?i)^sorry'")(texts).tolist() == [1, 1, 0, 0]


def test_a_function_is_given_what_the_data_have_and_may_change_it(tmp_path):
  code = """
import copy
seen = []
def reward(prompts, answers, *, token_ids, finished, details):
  seen.append(copy.deepcopy((prompts, answers, token_ids, finished, details)))
  if isinstance(prompts[0], list):
    prompts[0][0]["content"] = "changed"
    details[0]["changed"] = True
  return [0.0] * len(answers)
"""
  reward = user(tmp_path, code)
  answers = [
    PromptedAnswer(MESSAGES, " an answer ", np.asarray([1, 2]), np.asarray([3, 4]), False, {"topic": "sky"}),
    PromptedAnswer("\n\nHuman: x\n\nAssistant:", "other"),
  ]
  reward(answers)
  reward(answers)
  seen = reward.function.function.__globals__["seen"]
  assert seen[1] == (
    [[{"role": "user", "content": "  hello?\n"}], "\n\nHuman: x\n\nAssistant:"],
    [" an answer ", "other"],
    [[3, 4], None],
    [False, True],
    [{"topic": "sky"}, {}],
  )


@pytest.mark.parametrize(
  "code",
  [
    "def reward(prompts, answers): return [0.7, 0, True]",
    "import numpy\ndef reward(prompts, answers): return numpy.asarray([0.7, 0, 1])",
    "import numpy\ndef reward(p, a, **options): return [numpy.float32(0.7), numpy.int64(0), numpy.bool_(True)]",
    "import jax.numpy as np\ndef reward(prompts, answers, finished=None): return np.asarray([0.7, 0, 1])",
    "def reward(prompts, answers): yield from (0.7, 0, 1)",
    "class Scalar:\n  def __float__(self): return 0.7\ndef reward(prompts, answers): return [Scalar(), 0, 1]",
  ],
)
def test_a_reward_of_seven_tenths_is_seven_tenths(tmp_path, code):
  found = user(tmp_path, code)(said("a", "b", "c"))
  assert found.dtype == np.float64
  np.testing.assert_allclose(found, [0.7, 0, 1], atol=2e-8)


@pytest.mark.parametrize(
  "code, message",
  [
    ("def reward(prompts, answers): return [1.0]", "returns 1 values; it must return 2 finite numbers, one an answer"),
    ("def reward(prompts, answers): return None", "returns None; it must return 2"),
    ("def reward(prompts, answers): return 1.0", "returns float; it must"),
    ("def reward(prompts, answers): return '12'", "returns str; it must"),
    ("def reward(prompts, answers): return {0: 1, 1: 2}", "returns dict; it must"),
    ("def reward(prompts, answers): return {0.5, 0.7}", "returns set; it must"),
    ("def reward(prompts, answers): return {'a': 1, 'b': 2}.keys()", "returns dict_keys; it must"),
    ("import itertools\ndef reward(prompts, answers): return itertools.count()", "returns 3 values; it must return 2"),
    ("def reward(prompts, answers):\n  yield 1\n  yield 1 / 0", r"fails with ZeroDivisionError.* \(.*mine.py:3\)"),
    ("def reward(prompts, answers): return [1, float('nan')]", r"returns nan for answer 1 \(prompt 'a prompt'\)"),
    ("def reward(prompts, answers): return [None, 1]", "returns None for answer 0"),
    ("def reward(prompts, answers): return ['0.7', 1]", "returns '0.7' for answer 0"),
    ("def reward(prompts, answers): return [10**400, 1]", "returns 10+ for answer 0"),
    ("import numpy\ndef reward(p, a): return numpy.ones((2, 1))", r"returns \[1.0\] for answer 0"),
    (
      "x = 1\ndef reward(prompts, answers):\n  return 1 / 0",
      r"fails with ZeroDivisionError: division by zero \(.*mine.py:3\)",
    ),
    (
      "import json\ndef reward(prompts, answers):\n  json.loads('{')",
      r"fails with JSONDecodeError: .* \(.*mine.py:3\)",
    ),
    ("import sys\ndef reward(prompts, answers):\n  sys.exit(0)", r"fails with SystemExit: 0 \(.*mine.py:3\)$"),
    ("def reward(prompts, answers): raise RuntimeError('x\\ny')", r"fails with RuntimeError: x y \(.*mine.py:1\)$"),
    (
      "class Bad:\n  def __float__(self): raise RuntimeError('no float')\ndef reward(p, a): return [Bad()] * 2",
      r"fails with RuntimeError: no float \(.*mine.py:2\)$",
    ),
    (
      "class Bad:\n  def __float__(self): raise ValueError\n  def __repr__(self): return 1 / 0\n"
      "def reward(p, a): return [Bad()] * 2",
      "fails with ZeroDivisionError",
    ),
    ("class Bad:\n  def tolist(self): return 1 / 0\ndef reward(p, a): return Bad()", "fails with ZeroDivisionError"),
    (
      "class Bad:\n  def __iter__(self):\n    while True: yield 1\ndef reward(p, a): return Bad()",
      "returns 3 values; it must return 2",
    ),
    ("def reward(prompts): return 1", "fails with TypeError: .*2 were given"),
    (
      "def reward(completions, **kwargs): return [0.0 for _ in completions]",
      r"fails with TypeError: .*2 were given; a reward is called with \(prompts, answers\), .* and details where it takes them by keyword: .*",
    ),
    ("def reward(prompts, answers):\n  return 1 + 'a'", r"fails with TypeError: [^;]* \(.*mine.py:2\)$"),
  ],
)
def test_what_a_function_does_wrong_is_said_with_its_name(tmp_path, code, message):
  with pytest.raises(DataError, match=f"{tmp_path}/mine.py:reward {message}"):
    user(tmp_path, code)(said("a", "b"))


def test_an_interrupt_from_the_keyboard_is_no_fault_of_a_function(tmp_path):
  with pytest.raises(KeyboardInterrupt):
    user(tmp_path, "def reward(prompts, answers): raise KeyboardInterrupt")(said("a", "b"))


def test_the_users_traceback_is_kept(tmp_path):
  with pytest.raises(DataError) as raised:
    user(tmp_path, "def reward(prompts, answers): raise KeyError('x')")(said("a"))
  assert isinstance(raised.value.__cause__, KeyError)
  assert raised.value.__cause__.__traceback__ is not None


@pytest.mark.parametrize(
  "code, text, message",
  [
    (None, "python:nowhere.py:f", "pairs.reward: nowhere.py:f: No such file or directory; give FILE:FUNCTION"),
    (
      "def brevity(p, a): ...",
      "python:mine.py:brevety",
      "mine.py has no function 'brevety'; it has brevity; did you mean",
    ),
    ("x = (", "python:mine.py:f", r"running the file fails with SyntaxError: .*mine.py.*:1\)"),
    (
      "import os\nraise ValueError('no')",
      "python:mine.py:f",
      r"running the file fails with ValueError: no \(.*mine.py:2\)",
    ),
  ],
)
def test_a_file_without_the_function_is_refused(tmp_path, monkeypatch, code, text, message):
  monkeypatch.chdir(tmp_path)
  if code is not None:
    (tmp_path / "mine.py").write_text(code)
  with pytest.raises(ConfigError, match=message):
    make(text)


def test_a_files_fingerprint_is_of_its_bytes_and_it_imports_what_lies_beside_it(tmp_path):
  (tmp_path / "beside_the_reward.py").write_text("half = 0.5")
  code = "from beside_the_reward import half\ndef reward(prompts, answers): return [half for _ in answers]\n"
  one = user(tmp_path, code)
  assert one(said("a")).tolist() == [0.5]
  assert user(tmp_path, code).fingerprint == one.fingerprint
  changed = user(tmp_path, code.replace("[half", "[2 * half"))
  assert changed.fingerprint != one.fingerprint
  assert changed(said("a")).tolist() == [1.0]
  assert user(tmp_path, code.replace("prompts", "text"), "other.py").fingerprint != one.fingerprint


def test_functions_of_one_file_share_it(tmp_path):
  (tmp_path / "mine.py").write_text(
    "called = []\ndef f(p, a):\n  called.append(1)\n  return [0]\ndef g(p, a): return [len(called)]"
  )
  f, g = (make(f"python:{tmp_path}/mine.py:{name}") for name in "fg")
  assert (f(said("a")).tolist(), g(said("a")).tolist()) == ([0], [1])
