"""The pairs stage on the user's own prompts: what is sampled, rewarded, written, and read back by the stage after it."""

import collections
import json

import numpy as np
import pytest

from dpojax.config.load import load_experiment
from dpojax.data.prompts import read_prompts
from dpojax.data.templates import with_template
from dpojax.errors import ConfigError, DataError, InputError
from dpojax.recipes import Inputs
from dpojax.rewards.reward import PromptedAnswer
from dpojax.rollout import answers_file
from dpojax.sweeps.stages import run, stage_folders
from dpojax.training.stage_record import read_record
from tests.training.runs import write_tiny_model

TEMPLATE = (
  "{% for m in messages %}{{ 'word1 ' if m.role == 'user' else 'word2 ' }}{{ m.content }}"
  "{{ ' <eos> ' if m.role == 'assistant' else ' ' }}{% endfor %}{% if add_generation_prompt %}word2{% endif %}"
)
REWARD = """
def likes(prompts, answers, details):
  return [0.7 * answer.split().count(row["liked"]) for answer, row in zip(answers, details)]

def nothing(prompts, answers):
  return [0.0] * len(answers)
"""
CONFIG = """from dpojax.config import stages

def get_config():
  config = stages(pairs="pairs", dpo="preference")
  config.model.path = "MODEL"
  config.data.path = "PROMPTS"
  config.batch.size = 8
  config.batch.rows = 8
  config.batch.row_length = 64
  config.logging.plots = False
  config.pairs.pairs.prompts = 0
  config.pairs.pairs.max_tokens = 8
  config.pairs.pairs.reward = "python:REWARD:likes"
  config.dpo.data.path = "stage:pairs"
  config.dpo.data.eval_fraction = 0.2
  config.dpo.train.steps = 2
  config.dpo.monitor.prompts = 2
  config.dpo.monitor.max_tokens = 4
  return config
"""


def prompt_of(number, messages):
  text = f"word{number % 7} word{number % 5 + 8}"
  if not messages:
    return text
  turns = [{"role": "user", "content": "word9"}, {"role": "assistant", "content": "word8 word7"}]
  return [*turns[: number % 2 * 2], {"role": "user", "content": text}]


def folder_of(tmp_path, messages):
  """Model, prompts, reward and config file of an experiment."""
  model = write_tiny_model(tmp_path / "model")
  if messages:
    (model / "chat_template.jinja").write_text(TEMPLATE)
  rows: list = [{"prompt": prompt_of(i, messages), "liked": f"word{i % 3}"} for i in range(20)]
  rows.insert(4, {"prompt": 4})
  (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  (tmp_path / "reward.py").write_text(REWARD)
  names = {"MODEL": "model", "PROMPTS": "prompts.jsonl", "REWARD": "reward.py"}
  text = CONFIG
  for word, name in names.items():
    text = text.replace(word, str(tmp_path / name))
  (tmp_path / "config.py").write_text(text)
  return rows


def load(tmp_path, **values):
  return load_experiment(str(tmp_path / "config.py"), values={k.replace("__", "."): v for k, v in values.items()})


def lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("messages", [False, True], ids=["text", "messages"])
def test_from_prompts_to_examples(tmp_path, messages):
  rows = folder_of(tmp_path, messages)
  experiment, folder = load(tmp_path, data__format="prompt"), tmp_path / "run" / "pairs"
  run(experiment, tmp_path / "run", until="pairs")

  answers = {line["row"]: line for line in lines(folder / "answers.jsonl")}
  assert list(answers) == list(range(21)) and "holds a number, not text" in answers[4]["error"]
  pairs = lines(folder / "pairs.jsonl")
  seen = collections.Counter()
  for pair in pairs:
    row, (won, lost) = pair["row"], pair["samples"]
    written = answers[row]["samples"]
    chosen, rejected = written[won]["text"], written[lost]["text"]
    said = [[{"role": "assistant", "content": text}] for text in (chosen, rejected)] if messages else [chosen, rejected]
    assert [pair["chosen"], pair["rejected"]] == said and chosen != rejected
    assert pair["prompt"] == rows[row]["prompt"] and pair["reward"] == "likes"
    for text, reward in ((chosen, pair["reward_chosen"]), (rejected, pair["reward_rejected"])):
      assert reward == 0.7 * text.split().count(rows[row]["liked"])
    seen[row] += 1
  for row, line in answers.items():
    texts = [sample["text"] for sample in line.get("samples", [])]
    assert seen[row] == sum(texts[i] != texts[j] for i in range(len(texts)) for j in range(i))

  ranking = lines(folder / "rankings.jsonl")[0]
  assert ranking["answers"] == [answers[ranking["row"]]["samples"][i]["text"] for i in ranking["samples"]]
  assert all(len(row["answers"]) == 3 for row in lines(folder / "triples.jsonl"))
  provenance = json.loads((folder / "provenance.json").read_text())
  assert provenance["counts"]["pairs"] == len(pairs) and provenance["counts"]["prompts"] == 20
  assert provenance["reward"]["setting"].endswith("reward.py:likes")
  assert provenance["answers"]["weights"] == read_record(folder).fingerprints["weights"].digest
  assert provenance["answers"]["temperature"] == 1.0 and provenance["answers"]["samples"] == 4
  record = read_record(folder)
  made = {"pairs.jsonl", "rankings.jsonl", "triples.jsonl", "provenance.json", "answers.jsonl"}
  assert set(record.ended.files) == made
  log = (folder / "log.txt").read_text()
  assert "4 answers to each of 20 prompts; left out of 21 rows: 1 malformed" in log
  assert f"{len(pairs)} pairs in " in log

  # The policy is trained on the ids that it read when it wrote.
  inputs = Inputs(experiment.stages["dpo"], stage_folders(experiment, tmp_path / "run"))
  policy = inputs.policy()
  splits = inputs.splits(policy)
  data = experiment.stages["pairs"].data
  prompts = read_prompts(data, with_template(policy.tokenizer, "auto"))
  sampled = {row.ids.tobytes() for row in prompts}
  trained = {part[i].prompt.tobytes() for part in (splits.train, splits.held_out) for i in range(len(part))}
  assert trained <= sampled and len(trained) == len(
    {prompts[i].ids.tobytes() for i in range(20) if seen[prompts[i].number]}
  )
  empty = sum(not text for pair in pairs for text in said_in(pair))
  assert len(splits.train) + len(splits.held_out) == len(pairs) - empty


def said_in(pair):
  """Texts of the two answers."""
  return [side if isinstance(side, str) else side[0]["content"] for side in (pair["chosen"], pair["rejected"])]


@pytest.mark.slow
def test_what_it_read_is_known_again(tmp_path):
  folder_of(tmp_path, False)
  experiment, reward = load(tmp_path), tmp_path / "reward.py"
  run(experiment, tmp_path / "run", until="pairs")
  before = {file.name: file.read_bytes() for file in (tmp_path / "run" / "pairs").glob("*.jsonl")}

  reward.write_text(REWARD.replace("0.7", "0.8"))
  with pytest.raises(ConfigError, match=r"other settings or inputs \(reward: changed \(python:.*reward.py:likes\)\)"):
    run(experiment, tmp_path / "run", until="pairs")
  reward.write_text(REWARD)  # as it was, at another time: it is made again, and comes out the same
  run(experiment, tmp_path / "run", until="pairs")
  assert before == {file.name: file.read_bytes() for file in (tmp_path / "run" / "pairs").glob("*.jsonl")}

  prompts = tmp_path / "prompts.jsonl"
  prompts.write_text(prompts.read_text() + '{"prompt": "word1", "liked": "word1"}\n')
  with pytest.raises(ConfigError, match=r"prompts: 20 prompts -> 21 prompts"):
    run(experiment, tmp_path / "run", until="pairs")
  run(experiment, tmp_path / "run", until="pairs", allow_config_change=True)
  assert len(lines(tmp_path / "run" / "pairs" / "answers.jsonl")) == 22


@pytest.mark.slow
def test_a_stage_that_was_killed_goes_on_with_other_settings_when_asked(tmp_path, monkeypatch):
  folder_of(tmp_path, False)

  written, generate = [], answers_file.generate

  def killed(*arguments, **options):
    if written:
      raise KeyboardInterrupt
    written.append(generate(*arguments, **options))
    return written[0]

  with monkeypatch.context() as patch:
    patch.setattr("dpojax.recipes.answers.AT_ONCE", 8)  # answers that are on the disk before others are sampled
    patch.setattr("dpojax.rollout.answers_file.generate", killed)
    with pytest.raises(KeyboardInterrupt):
      run(load(tmp_path), tmp_path / "run", until="pairs")
  hotter = load(tmp_path, pairs__pairs__temperature=2.0)
  with pytest.raises(ConfigError, match=r"pairs.temperature: 1.0 -> 2.0"):
    run(hotter, tmp_path / "run", until="pairs")
  run(hotter, tmp_path / "run", until="pairs", allow_config_change=True)
  provenance = json.loads((tmp_path / "run" / "pairs" / "provenance.json").read_text())
  assert provenance["answers"]["temperature"] == 2.0


@pytest.mark.slow
@pytest.mark.parametrize(
  "reward, expected",
  [
    ("length", lambda sample: len(sample["tokens"])),
    ("2*regex:word1?count=true + -0.5*length", lambda s: 2 * len(words(s, "word1")) - 0.5 * len(s["tokens"])),
  ],
)
def test_rewards_by_rule(tmp_path, reward, expected):
  folder_of(tmp_path, False)
  experiment = load(
    tmp_path,
    pairs__pairs__reward=reward,
    pairs__pairs__choose="best_worst",
    pairs__pairs__label="highest",
  )
  run(experiment, tmp_path / "run", until="pairs")
  answers = {line["row"]: line.get("samples") for line in lines(tmp_path / "run" / "pairs" / "answers.jsonl")}
  pairs = lines(tmp_path / "run" / "pairs" / "pairs.jsonl")
  assert pairs
  for pair in pairs:
    values = [expected(sample) for sample in answers[pair["row"]]]
    won, lost = pair["samples"]
    assert (pair["reward_chosen"], pair["reward_rejected"]) == (values[won], values[lost])
    assert values[won] == max(values) and values[lost] == min(values) and values[won] > values[lost]


def words(sample, beginning):
  return [word for word in sample["text"].split() if word.startswith(beginning)]


@pytest.mark.slow
def test_pairs_that_an_earlier_reward_model_orders(tmp_path):
  """A reward of a stage, beside the implicit reward of another: read once, and part of what the stage is."""
  folder_of(tmp_path, False)
  text = (tmp_path / "config.py").read_text()
  text = text.replace('stages(pairs="pairs", dpo', 'stages(pairs="pairs", reward="reward_model", again="pairs", dpo')
  more = """  config.reward.data.path = "stage:pairs"
  config.reward.train.steps = 2
  config.again.pairs.max_tokens = 8
  config.again.pairs.reward = "both=model:stage:reward + 2*length"
  config.again.pairs.seed = 1
  config.dpo.monitor"""
  (tmp_path / "config.py").write_text(text.replace("  config.dpo.monitor", more, 1))
  experiment = load(tmp_path, dpo__data__path="stage:again")
  run(experiment, tmp_path / "run", until="again")
  folder = tmp_path / "run" / "again"
  record = read_record(folder)
  assert record.sources["pairs.reward"].identity == read_record(tmp_path / "run" / "reward").identity
  pairs = lines(folder / "pairs.jsonl")
  assert {pair["reward"] for pair in pairs} == {"both"}
  inputs = Inputs(experiment.stages["again"], stage_folders(experiment, tmp_path / "run"))
  alone = inputs.reward("model:stage:reward", "pairs.reward", inputs.policy().tokenizer)
  answered = [PromptedAnswer(pair["prompt"], pair["chosen"]) for pair in pairs]
  tokens = [lines(folder / "answers.jsonl")[pair["row"]]["samples"][pair["samples"][0]]["tokens"] for pair in pairs]
  # Texts say less than ids: whether an answer was cut, and which special tokens (the unknown word, 1) it holds.
  ended = [i for i, ids in enumerate(tokens) if ids[-1] == 0 and 1 not in ids]
  wanted = alone([answered[i] for i in ended]) + 2 * np.asarray([len(tokens[i]) for i in ended])
  assert len(ended) > 3
  np.testing.assert_allclose([pairs[i]["reward_chosen"] for i in ended], wanted, rtol=0, atol=1e-5)

  changed = load(tmp_path, dpo__data__path="stage:again", reward__train__steps=3)
  run(changed, tmp_path / "run", only="reward", allow_config_change=True)
  with pytest.raises(ConfigError, match=r"pairs.reward: stage reward was made anew from other settings or data since"):
    run(changed, tmp_path / "run", only="again")


@pytest.mark.slow
@pytest.mark.parametrize(
  "values, message",
  [
    (
      {"pairs.pairs.reward": "python:REWARD:liked"},
      r"pairs.reward: .*reward.py has no function 'liked'; .*did you mean 'likes'",
    ),
    (
      {"pairs.pairs.reward": "python:nowhere.py:f"},
      r"pairs.pairs.reward=python:nowhere.py:f: there is no file nowhere.py",
    ),
    (
      {"pairs.pairs.reward": "python:REWARD:nothing", "pairs.pairs.label": "highest"},
      "no two answers make a pair .*of equal rewards",
    ),
    ({"pairs.pairs.min_margin": 100.0}, "no two answers make a pair .*below the least margin"),
    ({"pairs.pairs.max_tokens": 64}, "pairs.max_tokens=64 leaves no room for a prompt in the model's 64 positions"),
    ({"pairs.data.path": "nowhere.jsonl"}, "nowhere.jsonl: no such file"),
  ],
)
def test_what_cannot_be_is_said(tmp_path, values, message):
  folder_of(tmp_path, False)
  values = {
    key: value.replace("REWARD", str(tmp_path / "reward.py")) if isinstance(value, str) else value
    for key, value in values.items()
  }
  with pytest.raises(InputError, match=message):
    run(load(tmp_path, **values), tmp_path / "run", until="pairs")
  assert not (tmp_path / "run" / "pairs" / "pairs.jsonl").exists()


def test_prompts_as_ids_under_a_template_are_refused(tmp_path):
  folder_of(tmp_path, True)
  (tmp_path / "prompts.jsonl").write_text('{"prompt_ids": [2, 3]}\n')
  with pytest.raises(DataError, match=r"prompts.jsonl:1: its prompt is given as token ids"):
    run(load(tmp_path), tmp_path / "run", until="pairs")
