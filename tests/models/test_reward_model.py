"""Rewards: an answer gets the same wherever and beside whatever it is packed, and nothing looks for a token id."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_decoder import hidden_states

from dpojax.data.examples import TokenExample
from dpojax.data.packing import BatchShape, pack
from dpojax.models.config import ModelConfig
from dpojax.models.language_model import LanguageModel
from dpojax.models.reward_model import Normalisation, RewardModel

EOS = 2
TINY = ModelConfig(
  vocab_size=53,
  hidden=24,
  layers=2,
  heads=4,
  kv_heads=2,
  ffn=40,
  max_positions=64,
  tie_embeddings=False,
  attention_bias=True,
  eos_ids=(EOS,),
  pad_id=EOS,
)


def reward_model(heads=2, **changes):
  return RewardModel(LanguageModel(dataclasses.replace(TINY, **changes)), heads)


def random_params(model, dtype: type = np.float64, seed=0):
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  return jax.tree.map(lambda s: jnp.asarray((rng.normal(size=s.shape) * 0.3).astype(dtype)), shapes)


def random_examples(counts, seed=0, vocabulary=TINY.vocab_size, longest=8):
  rng = np.random.default_rng(seed)
  ids = lambda: rng.integers(0, vocabulary, rng.integers(1, longest + 1)).astype(np.int32)  # noqa: E731
  return [TokenExample(ids(), tuple(ids() for _ in range(count)), index=i) for i, count in enumerate(counts)]


def packed_rows(examples, *, rows=2, length=96, answers=5, share_prompt=True):
  return pack(examples, BatchShape(1, rows, length, length, len(examples), answers), share_prompt=share_prompt).group(0)


def by_answer(values, rows):
  """{(example, answer): its [H] rewards}."""
  found = {}
  for values_of_row, ends, examples in zip(np.asarray(values), rows.answer_end, rows.example_index, strict=True):
    for slot in np.flatnonzero(ends):
      e, k = divmod(int(slot), rows.answers_per_example)
      found[int(examples[e]), k] = values_of_row[slot]
  return found


def rewards_one_by_one(model, params, examples):
  """{(example, answer): [H]}, each answer alone with its prompt, in NumPy."""
  found = {}
  for i, example in enumerate(examples):
    for k, answer in enumerate(example.answers):
      states = hidden_states(model.model.config, params, np.concatenate([example.prompt, answer]))
      found[i, k] = np.asarray(params["score"]) @ states[-1]
  return found


def largest_difference(found, expected):
  assert sorted(found) == sorted(expected)
  return max(np.abs(found[key] - expected[key]).max() for key in expected)


# The trunk in every layout is `test_packed_equals_alone`'s; here it is where an answer ends.
@pytest.mark.sampled(1)
@pytest.mark.slow
@pytest.mark.parametrize(("answers", "window", "share_prompt"), [(1, None, True), (5, 5, True), (2, None, False)])
def test_packed_rewards_are_those_of_answers_alone(answers, window, share_prompt):
  with jax.enable_x64(True):
    model = reward_model(window=window)
    params = random_params(model)
    examples = random_examples([answers] * 4, seed=answers)
    rows = packed_rows(examples, length=160, share_prompt=share_prompt)
    assert (rows.example_index >= 0).sum(-1).max() > 1, "several examples a row"
    found = by_answer(jax.jit(model.rewards)(params, rows), rows)
    assert largest_difference(found, rewards_one_by_one(model, params, examples)) <= 1e-9


@pytest.mark.slow
def test_gradient_packed_is_that_of_answers_alone():
  with jax.enable_x64(True):
    model = reward_model()
    params = random_params(model)
    examples = random_examples([3, 1, 2])
    singles = [(e, k) for e in examples for k in range(len(e.answers))]
    coefficient = {(e.index, k): np.random.default_rng(e.index * 9 + k).normal(size=2) for e, k in singles}

    def gradient(rows):
      table = np.zeros((*rows.answer_end.shape, 2))
      for r, slot in zip(*np.nonzero(rows.answer_end), strict=True):
        e, k = divmod(int(slot), rows.answers_per_example)
        table[r, slot] = coefficient[int(rows.example_index[r, e]), k]
      return jax.jit(jax.grad(lambda p: jnp.sum(table * model.rewards(p, rows))))(params)

    together = gradient(packed_rows(examples))
    coefficients = list(coefficient.values())
    alone = [TokenExample(e.prompt, (e.answers[k],), index=i) for i, (e, k) in enumerate(singles)]
    coefficient = {(i, 0): c for i, c in enumerate(coefficients)}
    apart = gradient(packed_rows(alone, rows=len(alone), length=16, answers=1))
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(apart), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * max(1.0, float(np.abs(b).max())))


@pytest.mark.slow
def test_reward_does_not_depend_on_neighbours_or_place_in_the_row():
  with jax.enable_x64(True):
    model = reward_model()
    params = random_params(model)
    rewards = jax.jit(model.rewards)
    watched, *others = random_examples([2] * 6, seed=3)
    seen = []
    for before in range(len(others) + 1):
      order = [*others[:before], watched, *others[before:]]
      renumbered = [dataclasses.replace(example, index=i) for i, example in enumerate(order)]
      rows = packed_rows(renumbered, rows=3, length=64)
      found = by_answer(rewards(params, rows), rows)
      seen.append([found[before, k] for k in range(2)])
    assert np.ptp(np.asarray(seen), axis=0).max() <= 1e-9


@pytest.mark.slow
def test_trap_9_pad_equal_to_eos_is_harmless():
  """Whatever stands in empty places, EOS included, and whether pad is EOS, moves no reward."""
  with jax.enable_x64(True):
    model = reward_model()
    params = random_params(model)
    examples = [
      TokenExample(np.array([5, 6, EOS], np.int32), (np.array([7, EOS], np.int32), np.array([EOS], np.int32)), 0),
      TokenExample(np.array([EOS], np.int32), (np.array([8, EOS, 9], np.int32), np.array([9, 9], np.int32)), 1),
    ]
    rows = packed_rows(examples, rows=1, length=24)
    expected = rewards_one_by_one(model, params, examples)
    assert largest_difference(by_answer(model.rewards(params, rows), rows), expected) <= 1e-9
    empty = rows.segment < 0
    assert empty.any()
    for pad in (EOS, 9, 0):
      padded = dataclasses.replace(rows, tokens=np.where(empty, pad, rows.tokens))
      assert largest_difference(by_answer(model.rewards(params, padded), rows), expected) <= 1e-9


@pytest.mark.slow
def test_trap_10_the_last_token_is_carried_and_not_searched():
  """Answers that hold EOS inside, that end without one (cut short) or that are nothing but EOS are read at their end."""
  with jax.enable_x64(True):
    model = reward_model(heads=1)
    params = random_params(model)
    answers = ([EOS, 7], [7, 8], [EOS, EOS, EOS], [7, EOS])
    example = TokenExample(np.array([4, EOS, 5], np.int32), tuple(np.array(a, np.int32) for a in answers))
    rows = packed_rows([example], rows=1, length=32, answers=4)
    ends = np.cumsum([3, *map(len, answers)])[1:] - 1
    assert rows.answer_end[0].tolist() == ends.tolist()
    found = by_answer(model.rewards(params, rows), rows)
    assert largest_difference(found, rewards_one_by_one(model, params, [example])) <= 1e-9
    assert len({round(float(value[0]), 9) for value in found.values()}) == len(answers)


@pytest.mark.slow
def test_empty_slots_get_zero_and_no_gradient():
  model = reward_model()
  params = random_params(model, np.float32)
  rows = packed_rows(random_examples([2, 1]), rows=3, length=48)
  empty = (rows.answer_end == 0)[..., None]

  @jax.jit
  def gradient(coefficient):
    def total(params):
      rewards = model.rewards(params, rows)
      return jnp.sum(jnp.where(empty, coefficient, 1.0) * rewards), rewards

    return jax.grad(total, has_aux=True)(params)

  (none, rewards), (large, _) = gradient(0.0), gradient(1e30)
  assert (np.asarray(rewards)[empty[..., 0]] == 0).all() and (np.asarray(rewards)[~empty[..., 0]] != 0).all()
  for a, b in zip(jax.tree.leaves(none), jax.tree.leaves(large), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.sampled(1)
@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_there_is_no_vocabulary_head(tied):
  model = reward_model(tie_embeddings=tied)
  full = model.model.init(jax.random.key(1))
  assert ("head" in full) != tied
  params = model.with_head(full, jax.random.key(2))
  assert sorted(set(params) - {"score"}) == ["embed", "final_norm", "layers"]
  rows = packed_rows(random_examples([2, 2]))
  gradient = jax.jit(jax.grad(lambda p: jnp.sum(jnp.square(model.rewards(p, rows)))))(params)
  read = np.unique(rows.tokens)
  moved = np.flatnonzero(np.abs(np.asarray(gradient["embed"])).max(axis=1))
  assert len(moved) > 0 and set(moved) <= set(read.tolist()), "an output side would move every word"


def test_head_starts_with_the_stated_spread():
  model = RewardModel(LanguageModel(dataclasses.replace(TINY, hidden=4, heads=2, kv_heads=1)), heads=5000)
  score = np.asarray(model.with_head({}, jax.random.key(0))["score"])
  assert score.shape == (5000, 4) and score.dtype == np.float32
  # 20,000 draws: the standard error of their standard deviation is 0.5 %, and 1 / sqrt(D) would be 12 % more.
  assert abs(score.std() * np.sqrt(5) - 1) < 0.02
  assert abs(score.mean()) < 5 / np.sqrt(5 * score.size)
  assert len(np.unique(score[:, 0])) > 4900, "heads start apart"


@pytest.mark.slow
def test_a_new_head_takes_the_place_of_an_old_one():
  model = reward_model(heads=3)
  first = model.init(jax.random.key(0))
  second = model.with_head(first, jax.random.key(5))
  assert second["score"].shape == (3, TINY.hidden) and (second["score"] != first["score"]).all()
  assert second["embed"] is first["embed"]


@pytest.mark.slow
def test_head_product_is_float32_whatever_the_precision():
  model = RewardModel(LanguageModel(TINY, precision="bfloat16"), heads=2)
  params = random_params(model, np.float32)
  rows = packed_rows(random_examples([2, 2]))
  trunk = {name: value for name, value in params.items() if name != "score"}
  hidden = np.asarray(model.trunk.hidden(trunk, rows), np.float64)
  found = np.asarray(model.rewards(params, rows))
  assert found.dtype == np.float32
  expected = np.take_along_axis(hidden, rows.answer_end[..., None], axis=1) @ np.asarray(params["score"], np.float64).T
  present = rows.answer_end > 0
  np.testing.assert_allclose(found[present], expected[present], rtol=2e-6, atol=2e-6)


def test_normalised_rewards_have_mean_0_and_std_1():
  rewards = np.random.default_rng(0).normal(size=(200, 3)) * [1.0, 5.0, 0.1] + [0.0, -3.0, 40.0]
  model = dataclasses.replace(reward_model(heads=3), normalisation=Normalisation.of(rewards))
  normal = model.normalised(rewards)
  np.testing.assert_allclose(normal.mean(axis=0), 0.0, atol=1e-12)
  np.testing.assert_allclose(normal.std(axis=0), 1.0, rtol=1e-12)
  assert reward_model().normalised(rewards) is rewards
  one, of_mean = model.normalisation.of_head(1), model.normalisation.of_head(None)
  np.testing.assert_allclose(one.apply(rewards[:, 1:2]), normal[:, 1:2])
  np.testing.assert_allclose(np.std(of_mean.apply(rewards.mean(axis=1, keepdims=True))), 1.0)
  assert Normalisation.of(np.ones((4, 1))) == Normalisation((1.0,), (1.0,), 1.0), (
    "one reward for all: nothing to divide by"
  )


def test_description_survives_json():
  for model in (
    reward_model(),
    dataclasses.replace(reward_model(), normalisation=Normalisation((0.1, 2.0), (1.5, 3.0), 0.7)),
  ):
    assert RewardModel.from_description(model.model, json.loads(json.dumps(model.describe()))) == model
  with pytest.raises(ValueError, match="2 heads, but 1 means"):
    RewardModel.from_description(LanguageModel(TINY), {"heads": 2, "mean": [0], "std": [1, 1], "std_of_mean": 1})


@pytest.mark.slow
def test_mean_over_heads_is_one_head():
  with jax.enable_x64(True):
    model = reward_model(heads=4)
    params = random_params(model)
    rows = packed_rows(random_examples([2, 3]))
    rewards = np.asarray(model.rewards(params, rows))
    merged, merged_params = model.one_head(params)
    np.testing.assert_allclose(merged.rewards(merged_params, rows)[..., 0], rewards.mean(-1), rtol=1e-12, atol=1e-12)
    third, third_params = model.one_head(params, 2)
    np.testing.assert_allclose(third.rewards(third_params, rows)[..., 0], rewards[..., 2], rtol=1e-12)


def test_smollm2_in_float32(smollm2):
  language_model, trunk, tokenizer = smollm2
  model = RewardModel(language_model)
  params = model.with_head(trunk, jax.random.key(0))
  texts = [
    ("The capital of France is", [" Paris.", " a city, as far as I know."]),
    (
      "Question: what should I pack for a week in the mountains?\nAnswer:",
      [" Warm clothes and good boots.", " Nothing"],
    ),
    ("Once upon a time", [" there was a king.", ", in a"]),
  ]
  ids = lambda text: np.asarray(tokenizer.encode(text), np.int32)  # noqa: E731
  end = np.asarray(tokenizer.eos_ids[:1], np.int32)  # which is SmolLM2's pad token too
  examples = [
    TokenExample(ids(prompt), tuple(np.concatenate([ids(a), end]) for a in answers), i)
    for i, (prompt, answers) in enumerate(texts)
  ]
  rows = packed_rows(examples, rows=1, length=96, answers=2)
  found = by_answer(jax.jit(model.rewards)(params, rows), rows)
  expected = rewards_one_by_one(model, params, examples)
  assert largest_difference(found, expected) <= 1e-4
