"""Scores that no arithmetic takes: refused with reward and prompt wherever a reward is called to its end."""

import json
import warnings

import numpy as np
import pytest

from dpojax.cli.main import main
from dpojax.config.schema import RolloutSettings
from dpojax.errors import DataError
from dpojax.rewards.combined import Normalised, Sum, SumTerm
from dpojax.rewards.judge import RewardJudge
from dpojax.rewards.normalisation import measure
from dpojax.rewards.scores import scored
from dpojax.training.answering import score_answers
from tests.rewards.test_combined import Given, answers

HUGE = [1.0, 1e308, 2.0]
MEANT = r"reward given: 1e\+308 is no score for answer 1 \(prompt 'p'\); scores are finite and at most 1e\+30 in size"
CALLS = {
  "scored": lambda values: scored(Given(), answers(values)),
  "roll-outs": lambda values: score_answers(Given(), answers(values), RolloutSettings()),
  "judges": lambda values: RewardJudge(Given())(answers(values), answers([0.0] * len(values))),
  "normalisation": lambda values: measure(Given(), answers(values)),
}


@pytest.fixture(autouse=True)
def no_warnings():
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    yield


@pytest.mark.parametrize("call", CALLS)
def test_a_score_beyond_all_sense_is_refused_by_its_name(call):
  with pytest.raises(DataError, match=MEANT):
    CALLS[call](HUGE)
  for value in (np.nan, np.inf, -np.inf, -1.1e30):
    with pytest.raises(DataError, match="is no score for answer 0"):
      CALLS[call]([value, 0.0])
  CALLS[call]([1e30, -1e30, 0.0])


def test_what_weights_and_scales_make_of_a_score_is_looked_at():
  for weight, value in ((10.0, 1e308), (-10.0, 1e308), (1e20, 1e20)):
    total = Sum("both", (SumTerm("one", weight, Given()), SumTerm("two", 1.0, Given())))
    with pytest.raises(DataError, match=r"reward both: .* is no score for answer 1"):
      scored(total, answers([0.0, value]))
  with pytest.raises(DataError, match="reward given: inf is no score for answer 1"):
    scored(Normalised(Given(), 1e300, 0.0), answers([1e-300, 1e29]))


def test_scores_of_a_file_are_looked_at_too(tmp_path, capsys):
  (tmp_path / "mine.py").write_text("def huge(prompts, answers): return [1e200] * len(answers)\n")
  (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "my fan", "completion": "is broken"}) + "\n")
  reward = f"python:{tmp_path}/mine.py:huge"
  assert main(["score", f"--rewards={reward}", f"--data={tmp_path}/rows.jsonl", f"--out={tmp_path}/out.jsonl"]) != 0
  assert "1e+200 is no score for answer 0 (prompt 'my fan')" in capsys.readouterr().err
