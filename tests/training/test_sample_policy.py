"""Looks at what a policy writes: every figure against its definition, and what a run that goes on compares with."""

import dataclasses
import json
import types

import jax
import numpy as np
import pytest

from dpojax import digests
from dpojax.config.schema import MonitorSettings
from dpojax.data.prompts import PromptRow
from dpojax.errors import CheckpointError
from dpojax.interop.tokenizer import Tokenizer
from dpojax.models.config import ModelConfig
from dpojax.models.language_model import LanguageModel
from dpojax.training.sample_policy import PolicySampler, read_lines

TOKENIZER = Tokenizer.from_words([f"word{i}" for i in range(20)], eos="<eos>", unknown="<unk>")
MODEL = LanguageModel(
  ModelConfig(
    vocab_size=TOKENIZER.vocab_size, hidden=16, layers=1, heads=2, kv_heads=1, ffn=16, eos_ids=TOKENIZER.eos_ids
  )
)
REFERENCE, POLICY = (jax.tree.map(lambda x, k=k: 8 * x, jax.device_get(MODEL.init(jax.random.key(k)))) for k in (0, 1))
N = 12


def prompts():
  texts = [f"word{i} word{(3 * i) % 20}" for i in range(N)]
  rows = enumerate(zip(texts, TOKENIZER.encode_batch(texts), strict=True))
  return [PromptRow(text, text.upper(), np.asarray(ids, np.int32), f"row {i}", i, {}) for i, (text, ids) in rows]


@dataclasses.dataclass
class Words:
  """A reward of the words of an answer, that counts how often it was asked."""

  name: str = "words"
  fingerprint: str = ""
  scale: float = 1.0
  asked: int = 0

  def __call__(self, answers):
    self.asked += 1
    assert all(answer.prompt == row.given for answer, row in zip(answers, prompts(), strict=True))
    return np.asarray([self.scale * 0.7 * len(answer.answer.split()) for answer in answers])


def sampler(folder, *rewards, judge=None, status=None, **settings):
  settings = MonitorSettings(**{"max_tokens": 8, "seed": 3} | settings)
  return PolicySampler(
    MODEL, TOKENIZER, prompts(), settings, lambda: REFERENCE, rewards=rewards, judge=judge, folder=folder, status=status
  )


@pytest.mark.slow
def test_a_look_says_how_far_it_is(tmp_path):
  said = []
  look = sampler(tmp_path, Words(), status=said.append)
  metrics, _ = look(POLICY)
  written = round(metrics["length/policy"] * N)
  assert said[0] == f"look: the reference answers {N} prompts" and said[-1] == f"look: measuring {N} answers"
  assert f"look: the policy answers, {N}/{N} prompts, {written} tokens" in said
  said.clear()
  look(POLICY)
  assert not any("reference" in text for text in said)  # it answered once


@pytest.mark.slow
def test_every_figure_of_a_look_is_what_its_name_says(tmp_path):
  metrics, records = sampler(tmp_path, Words())(POLICY)
  before = [json.loads(line) for line in (tmp_path / "samples" / "reference.jsonl").read_text().splitlines()]
  rewards = np.asarray([record["rewards"]["words"] for record in records])
  assert rewards.tolist() == [0.7 * len(record["answer"].split()) for record in records]
  assert metrics["reward/words"] == pytest.approx(rewards.mean())
  assert metrics["reward/words_error"] == pytest.approx(rewards.std(ddof=1) / np.sqrt(N))
  lengths = np.asarray([len(record["ids"]) for record in records])
  assert [record["tokens"] for record in records] == lengths.tolist()
  assert metrics["length/policy"] == lengths.mean()
  ended = [record["ids"][-1] in TOKENIZER.eos_ids for record in records]
  assert [record["finished"] for record in records] == ended and 0 < sum(ended) < N
  assert metrics["finished"] == np.mean(ended)
  pairs = [(a, b) for record in records for a, b in zip(record["ids"], record["ids"][1:], strict=False)]
  assert metrics["distinct/2"] == len(set(pairs)) / len(pairs)
  assert metrics["distinct/1"] == len({i for r in records for i in r["ids"]}) / lengths.sum()
  kl = np.asarray([record["kl"] for record in records])
  assert metrics["kl/sequence"] == pytest.approx(kl.mean())
  assert metrics["kl/token"] == pytest.approx(kl.sum() / lengths.sum())
  won = np.sign(rewards - [line["rewards"]["words"] for line in before])
  assert metrics["win_rate"] == pytest.approx(np.mean((won + 1) / 2))
  assert metrics["win_rate_low"] < metrics["win_rate"] < metrics["win_rate_high"]
  assert records[0]["prompt"] == prompts()[0].text


@pytest.mark.slow
def test_the_error_of_kl_a_token_is_that_of_a_jackknife(tmp_path):
  metrics, records = sampler(tmp_path)(POLICY)
  kl, tokens = (np.asarray([record[name] for record in records], np.float64) for name in ("kl", "tokens"))
  without = (kl.sum() - kl) / (tokens.sum() - tokens)
  jackknife = np.sqrt((N - 1) / N * np.sum((without - without.mean()) ** 2))
  assert metrics["kl/token_error"] == pytest.approx(jackknife, rel=0.15)


@pytest.mark.slow
def test_at_the_reference_nothing_has_moved_and_nobody_wins(tmp_path):
  metrics, _ = sampler(tmp_path, Words())(REFERENCE)
  assert metrics["win_rate"] == 0.5
  assert all(metrics[f"kl/{name}"] == 0 for name in ("sequence", "token", "k1", "k3"))


@pytest.mark.slow
def test_looks_are_paired_and_a_run_that_goes_on_compares_with_the_same(tmp_path):
  first, again = sampler(tmp_path, Words()), sampler(tmp_path, Words())
  metrics, records = first(POLICY)
  assert first(POLICY) == (metrics, records)
  kept = (tmp_path / "samples" / "reference.jsonl").read_bytes()
  assert again(POLICY) == (metrics, records)
  assert (tmp_path / "samples" / "reference.jsonl").read_bytes() == kept


@pytest.mark.slow
def test_gain_and_bias_come_from_the_reference_and_survive_a_restart(tmp_path):
  plain, _ = sampler(tmp_path / "plain", Words())(POLICY)
  (tmp_path / "run").mkdir()
  metrics, _ = sampler(tmp_path / "run", Words(), normalise=True)(POLICY)
  before = [json.loads(line) for line in (tmp_path / "run" / "samples" / "reference.jsonl").read_text().splitlines()]
  raw = np.asarray([line["rewards"]["words"] for line in before])
  assert metrics["reward/words"] == pytest.approx((plain["reward/words"] - raw.mean()) / raw.std(), rel=1e-6)
  assert metrics["win_rate"] == plain["win_rate"]
  again, _ = sampler(tmp_path / "run", Words(scale=3.0), normalise=True)(POLICY)  # as if the reward had changed
  gain = 1 / raw.std()
  assert again["reward/words"] == pytest.approx(gain * 3 * plain["reward/words"] - gain * raw.mean(), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"top_k": 3}, {"top_p": 0.9}, {"temperature": 0.0}])
def test_a_truncated_distribution_gives_no_kl(tmp_path, settings):
  metrics, _ = sampler(tmp_path, Words(), **settings)(POLICY)
  assert not [name for name in metrics if name.startswith("kl/")]
  assert metrics["path_kl/token"] > 0


@pytest.mark.slow
def test_a_judge_of_the_users_own_decides_the_win_rate(tmp_path):
  @dataclasses.dataclass
  class First:
    name: str = "first"
    fingerprint: str = ""

    def __call__(self, first, second):
      assert [a.prompt for a in first] == [b.prompt for b in second]
      return np.linspace(0, 1, len(first))

  metrics, _ = sampler(tmp_path, judge=First())(POLICY)
  assert metrics["win_rate"] == pytest.approx(0.5)
  assert "reward/words" not in metrics


@dataclasses.dataclass
class Rounded(Words):
  """Words, whose last bits depend on the call."""

  def __call__(self, answers):
    values = super().__call__(answers)
    return values + 1e-9 * self.asked


@pytest.mark.slow
def test_answers_that_are_the_same_tie_whatever_a_reward_rounds(tmp_path):
  metrics, records = sampler(tmp_path, Rounded(), max_tokens=1, temperature=4.0, seed=0)(POLICY)
  before = [json.loads(line) for line in (tmp_path / "samples" / "reference.jsonl").read_text().splitlines()]
  same = np.asarray([a["ids"] == b["ids"] for a, b in zip(records, before, strict=True)])
  difference = np.asarray([a["rewards"]["words"] - b["rewards"]["words"] for a, b in zip(records, before, strict=True)])
  assert 0 < same.sum() < N
  assert metrics["win_rate"] == np.mean(np.where(same, 0.5, difference > 0))


def test_what_the_reference_wrote_is_named_where_a_byte_of_it_has_changed(tmp_path):
  samples = tmp_path / "samples" / "reference.jsonl"
  rows = [types.SimpleNamespace(given="p")]
  assert read_lines(tmp_path, rows) is None
  digests.write_json_lines(tmp_path, "samples/reference.jsonl", [{"prompt": "p", "rewards": {"true": 1.5}}])
  assert read_lines(tmp_path, rows) == [{"prompt": "p", "rewards": {"true": 1.5}}]
  samples.write_bytes(samples.read_bytes().replace(b"1.5", b"1.7"))
  with pytest.raises(CheckpointError, match=r"samples/reference\.jsonl: damaged or changed"):
    read_lines(tmp_path, rows)
