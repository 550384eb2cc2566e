"""Which prompts a stage looks at its policy with, and what is said where they are few, long or none."""

import dataclasses
import types
from typing import Any

import pytest

from dpojax.config.schema import DataSettings, MonitorSettings, ParallelSettings, RunConfig, StopSettings
from dpojax.data.dataset import dataset_from_rows
from dpojax.data.splits import Splits
from dpojax.errors import ConfigError, DataError
from dpojax.interop.tokenizer import Tokenizer
from dpojax.parallel import make_mesh
from dpojax.recipes.monitoring import Monitoring, held_out_prompts
from dpojax.rewards.judge import RewardJudge
from dpojax.rewards.text import RegexReward
from dpojax.types import Answers

TOKENIZER = Tokenizer.from_words([f"word{i}" for i in range(30)], eos="<eos>", unknown="<unk>")
POLICY: Any = types.SimpleNamespace(
  model=types.SimpleNamespace(config=types.SimpleNamespace(max_positions=20)), tokenizer=TOKENIZER
)


def splits_of(*lengths):
  """Held-out rows with prompts of these lengths, each of another first word."""
  rows = [
    {"prompt": " ".join([f"word{i}", *["word0"] * (length - 1)]), "chosen": " word1", "rejected": " word2"}
    for i, length in enumerate(lengths)
  ]
  rows.append({"prompt": "word29", "chosen": " word1", "rejected": " word2"})
  made = dataset_from_rows(rows, DataSettings(), TOKENIZER, answers=Answers.PAIR, row_length=64)
  return Splits(made.subset([len(lengths)]), made.subset(list(range(len(lengths)))))


def config_of(patience=0, **monitor):
  data = DataSettings(source="file", path="pairs.jsonl")
  return RunConfig(data=data, monitor=MonitorSettings(**monitor), stop=StopSettings(patience=patience))


def test_prompts_that_leave_no_room_for_an_answer_are_left_out_and_counted():
  splits = splits_of(3, 13, 12, 5, 14)
  found, notes = held_out_prompts(config_of(prompts=3, max_tokens=8), POLICY, splits)
  assert [len(row.ids) for row in found] == [3, 12, 5]
  assert notes == [
    "2 of 5 held-out prompts are left out, as monitor.max_tokens=8 more tokens pass the model's 20 positions"
  ]
  with pytest.raises(ConfigError, match=r"monitor.max_tokens=18 leaves no room for any of the 5 held-out prompts"):
    held_out_prompts(config_of(max_tokens=18), POLICY, splits)


def test_of_plain_text_the_token_that_is_read_is_the_prompt():
  rows = [{"text": "word3 word4 word5"}, {"text": "word6 word7"}]
  made = dataset_from_rows(rows, DataSettings(), TOKENIZER, answers=Answers.ONE, row_length=64)
  found, _ = held_out_prompts(config_of(prompts=2, max_tokens=8), POLICY, Splits(made, made))
  assert [(row.given, row.text, TOKENIZER.decode(row.ids)) for row in found] == [("word3",) * 3, ("word6",) * 3]


def test_fewer_prompts_than_wanted_are_said():
  found, notes = held_out_prompts(config_of(prompts=4, max_tokens=8), POLICY, splits_of(3, 4, 5))
  assert len(found) == 3 and notes == ["3 different prompts are held out, not monitor.prompts=4"]
  assert held_out_prompts(config_of(prompts=3, max_tokens=8), POLICY, splits_of(3, 4, 5))[1] == []


def test_looks_that_are_asked_for_are_not_left_out_in_silence():
  with pytest.raises(DataError, match=r"monitor.every=4 is set, but no prompt is held out"):
    held_out_prompts(config_of(every=4), POLICY, splits_of())
  assert held_out_prompts(config_of(), POLICY, splits_of()) == ([], [])


@pytest.mark.parametrize("lengths, prompts", [((3,), 64), ((3, 4), 1)])
def test_a_rule_on_one_prompt_is_refused(lengths, prompts):
  with pytest.raises(ConfigError, match=r"stop.patience is set, but one held-out prompt has no standard error"):
    held_out_prompts(config_of(patience=1, every=4, prompts=prompts, max_tokens=8), POLICY, splits_of(*lengths))


def test_a_judge_and_a_reward_of_one_name_both_have_their_fingerprints():
  reward, judge = RegexReward("a", name="better"), RewardJudge(RegexReward("b", name="better"))
  devices = make_mesh(ParallelSettings(data=1))
  watching = Monitoring(config_of(), POLICY, [], [reward], judge, devices)
  other = dataclasses.replace(watching, rewards=[RegexReward("c", name="better")])
  assert watching.fingerprints != other.fingerprints
  assert len(watching.fingerprints) == 2
