"""Learned rewards see the row that the data have: equal to `dpojax eval` on the same rows, and to each answer alone."""

import json

import jax
import numpy as np
import pytest

from dpojax.config.schema import DataSettings
from dpojax.data import TokenDataset, load_dataset
from dpojax.data.prompts import prompts_of
from dpojax.errors import ConfigError, DataError
from dpojax.models.reward_model import Normalisation, RewardModel
from dpojax.recipes import evaluate_model as evaluation
from dpojax.rewards.build import build
from dpojax.rewards.reward import PromptedAnswer
from dpojax.rewards.spec import read_reward
from dpojax.scoring import reward_scores, score_answers
from dpojax.types import Answers
from tests.rewards.conftest import language_model, reward_model

CHAT = [
  {"role": "user", "content": "hello there"},
  {"role": "assistant", "content": "yes?"},
  {"role": "user", "content": "is the sky blue?"},
]


def rows(n=12):
  """HH: one to four turns, answers of many lengths."""
  draws = np.random.default_rng(0)
  words = ["the", "sky", "is", "blue", "black", "yes", "no", "maybe", "hello", "what", "answer"]

  def text(most):
    return " ".join(draws.choice(words, draws.integers(1, most)))

  found = []
  for _ in range(n):
    before = "".join(f"\n\nHuman: {text(6)}?\n\nAssistant: {text(6)}." for _ in range(int(draws.integers(0, 4))))
    prompt = f"{before}\n\nHuman: {text(8)}?\n\nAssistant:"
    found.append({"chosen": f"{prompt} {text(12)}", "rejected": f"{prompt} {text(9)}!"})
  return found


@pytest.fixture(scope="module")
def file(tmp_path_factory):
  path = tmp_path_factory.mktemp("hh") / "hh.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows()))
  return DataSettings(source="file", path=str(path), eval_fraction=0.0)


def answers_of(settings, tokenizer, ids=False):
  """Every answer of the file, as a policy with this tokenizer has its prompts."""
  dataset, _ = load_dataset(settings, tokenizer, answers=Answers.ANY, row_length=0)
  found = []
  for i, row in enumerate(prompts_of(dataset)):
    for k, text in enumerate(dataset.metadata[i]["answers"]):
      written = {"prompt_ids": row.ids, "answer_ids": dataset[i].answers[k]} if ids else {}
      found.append(PromptedAnswer(row.given, text, **written))
  return found


def make(text, loaded, **options):
  return build(read_reward(text, "monitor.rewards"), load=lambda path: loaded, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
  "policy, of_model, ids",
  [
    ("chatml", "chatml", True),  # the ids that were written
    pytest.param("other", "other", True, marks=pytest.mark.slow),
    pytest.param("plain", "plain", True, marks=pytest.mark.slow),
    pytest.param("chatml", "chatml", False, marks=pytest.mark.slow),  # the text, by the same tokenizer
    ("other", "chatml", True),  # ids of another tokenizer are none of the model's
    pytest.param("chatml", "other", False, marks=pytest.mark.slow),
    ("plain", "other", False),  # a dialogue as text becomes messages again
    pytest.param("plain", "plain", False, marks=pytest.mark.slow),
  ],
)
def test_multi_turn_rows_score_as_eval_scores_them(request, monkeypatch, file, policy, of_model, ids):
  policy, tokenizer = request.getfixturevalue(policy), request.getfixturevalue(of_model)
  loaded = reward_model(tokenizer, heads=2)
  monkeypatch.setattr(evaluation, "load_model", lambda path, precision: (loaded.model, loaded.params, tokenizer))
  scored = evaluation.evaluate_model("a reward model", file)
  expected = np.concatenate([np.mean(heads, axis=0) for heads in scored.scores])
  found = make("model:r", loaded, tokenizer=policy)(answers_of(file, policy, ids))
  assert found.dtype == np.float64
  np.testing.assert_allclose(
    found, expected, rtol=0, atol=3e-6 * np.abs(expected).max()
  )  # float32, packed beside others


@pytest.mark.slow
def test_an_implicit_reward_is_that_of_eval(monkeypatch, file, chatml):
  policy, reference = language_model(chatml, 1), language_model(chatml, 2)
  dataset, _ = load_dataset(file, chatml, answers=Answers.ANY, row_length=0)
  own, before = (
    np.concatenate([row.logps for row in score_answers(m.model, m.params, dataset)]) for m in (policy, reference)
  )
  reward = make("implicit:p?beta=0.3", policy, compare=lambda path, given, beta: (lambda: reference, beta))
  for written in (False, True):
    np.testing.assert_allclose(reward(answers_of(file, chatml, written)), 0.3 * (own - before), rtol=1e-5, atol=1e-4)


@pytest.mark.slow
def test_a_cut_answer_is_scored_at_its_last_token(chatml, other):
  """By ids as they are; by text without the EOS that an answer which ended has."""
  loaded = reward_model(chatml)
  whole = chatml.encode("<|im_start|>user\nthe sky?<|im_end|>\n<|im_start|>assistant\n")
  answer = chatml.encode("is blue")
  given = [{"role": "user", "content": "the sky?"}]
  exact = [TokenDataset.from_examples([(whole, [answer])]), TokenDataset.from_examples([(whole, [[*answer, 1]])])]
  assert chatml.eos_id == 1
  cut, ended = (reward_scores(loaded.model, loaded.params, dataset)[0][0, 0] for dataset in exact)
  ids = {"prompt_ids": np.asarray(whole), "answer_ids": np.asarray(answer)}
  reward = make("model:r", loaded, tokenizer=chatml)
  foreign = make("model:r", loaded, tokenizer=other)
  assert abs(cut - ended) > 1e-3
  for made in (reward, foreign):
    found = made([PromptedAnswer(given, "is blue", **ids, finished=False)])
    np.testing.assert_allclose(found, cut, rtol=1e-5)
  np.testing.assert_allclose(foreign([PromptedAnswer(given, "is blue", **ids)]), ended, rtol=1e-5)


@pytest.mark.slow
def test_answers_of_a_prompt_share_it_and_each_stands_alone(chatml):
  """Many answers, some equal, in any order: as each by itself; equal answers have equal rewards to the last bit."""
  loaded = reward_model(chatml, heads=3)
  reward = make("model:r", loaded, tokenizer=chatml)
  draws = np.random.default_rng(1)
  words = ["the", "sky", "is", "blue", "black", "yes", "no", "maybe"]
  answers = [
    PromptedAnswer(CHAT if n % 3 else "hello", " ".join(draws.choice(words, draws.integers(1, 20)))) for n in range(40)
  ]
  answers += answers[:7]
  together = reward(answers)
  np.testing.assert_array_equal(together[40:], together[:7])
  for i in range(0, 40, 9):
    np.testing.assert_allclose(together[i], reward([answers[i]])[0], rtol=1e-5, atol=1e-6)


def test_many_long_answers_to_a_prompt_do_not_make_one_endless_row(chatml):
  from dpojax.rewards.examples import MOST_TOKENS, examples_of

  answers = [PromptedAnswer(CHAT, f"{i} " * 300) for i in range(20)]
  placed = examples_of(answers, chatml, None)
  assert placed.dataset.longest_segment <= MOST_TOKENS
  assert len({placed.dataset[i].prompt.tobytes() for i in range(len(placed.dataset))}) == 1
  values = [
    np.asarray([chatml.decode(answer) for answer in placed.dataset[i].answers]) for i in range(len(placed.dataset))
  ]
  assert [text.split()[0] for text in placed.in_order(values)] == [str(i) for i in range(20)]


@pytest.mark.slow
def test_heads_mean_and_mean_less_deviations(chatml):
  loaded = reward_model(chatml, heads=3)
  answers = [PromptedAnswer(CHAT, text) for text in ("yes", "no, it is black", "maybe")]
  heads = make("model:r", loaded).heads(answers)
  assert heads.shape == (3, 3)
  np.testing.assert_array_equal(make("model:r", loaded)(answers), heads.mean(axis=1))
  np.testing.assert_allclose(make("model:r?less=2", loaded)(answers), heads.mean(axis=1) - 2 * heads.std(axis=1))
  measured = RewardModel(loaded.model.model, 3, Normalisation((1.0, 2.0, 6.0), (1.0, 1.0, 1.0), 0.5))
  scaled = type(loaded)(measured, loaded.params, chatml)
  np.testing.assert_array_equal(make("model:r", scaled)(answers), heads.mean(axis=1))  # raw unless asked
  np.testing.assert_allclose(make("model:r?normalised=true", scaled)(answers), (heads.mean(axis=1) - 3) / 0.5)


@pytest.mark.parametrize(
  "text, heads, message",
  [
    ("model:r?less=1", 1, r"model:r\?less=1: it has one head, and less needs an ensemble"),
    ("model:r?normalised=true", 1, r"model:r\?normalised=true: it carries no normalisation"),
    ("model:r", 0, "model:r is a language model and gives no rewards; .*implicit:r"),
    ("implicit:r?beta=1", 1, "implicit:r is a reward model; give it as model:r"),
    ("true", 1, "monitor.rewards: true is an environment's own reward"),
  ],
)
def test_a_model_of_the_wrong_kind_is_refused(chatml, text, heads, message):
  loaded = reward_model(chatml, heads) if heads else language_model(chatml)
  with pytest.raises(ConfigError, match=message):
    make(text, loaded, compare=lambda path, reference, beta: (lambda: loaded, beta))


def test_an_answer_that_cannot_be_scored_names_its_prompt(chatml, plain):
  small = reward_model(chatml, positions=24)
  fine = PromptedAnswer("hello", "yes")
  with pytest.raises(DataError, match=r"answer 1 \(prompt 'is the sky blue\?'\): .* but model:r takes 24 positions"):
    make("model:r", small)([fine, PromptedAnswer(CHAT, "maybe " * 9)])
  with pytest.raises(DataError, match=r"answer 0 \(prompt 'is the sky blue\?'\): .* no chat template"):
    make("model:r", reward_model(plain))([PromptedAnswer(CHAT, "yes")])
  broken = reward_model(chatml)
  broken = type(broken)(broken.model, broken.params | {"score": broken.params["score"] * np.nan}, chatml)
  with pytest.raises(DataError, match=r"answer 0 \(prompt 'hello'\): the reward r gives .*nan"):
    make("model:r", broken)([fine])
  outside = PromptedAnswer("hello", "x", np.asarray([5]), np.asarray([10_000]))
  with pytest.raises(DataError, match=r"answer 0 \(prompt 'hello'\): .*id 10000"):
    make("model:r", reward_model(chatml), tokenizer=chatml)([outside])


def test_no_answers_have_no_rewards(chatml):
  assert make("model:r", reward_model(chatml))([]).shape == (0,)


def test_fingerprints_follow_weights_and_options(chatml):
  class Digested(type(reward_model(chatml))):
    @property
    def digest(self):
      return str(float(jax.tree.leaves(self.params)[0].sum()))

  one, two = (Digested(*vars(reward_model(chatml, 2, seed)).values()) for seed in (0, 1))
  prints = [make(text, m).fingerprint for text in ("model:r", "model:r?less=1") for m in (one, two)]
  assert len(set(prints)) == 4
  assert all(len(text) == 64 for text in prints)
  assert make("model:r", reward_model(chatml)).fingerprint == ""
