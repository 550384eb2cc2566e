"""The packed loop: values come back to their owners, and a row that was not scored is an error."""

import dataclasses

import numpy as np
import pytest

from dpojax.data.examples import TokenDataset, TokenExample
from dpojax.data.packing import BatchShape, pack
from dpojax.errors import DataError
from dpojax.scoring.packed import ScoredStep, Scorer, score_steps

SHAPE = BatchShape(groups=4, rows=2, length=32, scored=24, examples=3, answers=3)


def make_examples(n=21, seed=0):
  draws = np.random.default_rng(seed)
  ids = lambda longest: draws.integers(1, 50, draws.integers(1, longest))  # noqa: E731
  return [
    TokenExample(ids(9).astype(np.int32), tuple(ids(7).astype(np.int32) for _ in range(1 + i % 3))) for i in range(n)
  ]


def ids_and_ranks(batch):
  """For every scored slot a number that says which token it scores, and where in its answer."""
  start = np.take_along_axis(batch.position, batch.scored_at, -1)
  return np.where(batch.filled, 100.0 * batch.target + start, np.nan)


def sums_of_answers(batch):
  """[G, R, E * K, 2] sum and number of the tokens of every answer slot."""
  at = np.arange(batch.num_answers)[:, None] == batch.answer[..., None, :]
  return np.stack([np.where(at, batch.tokens[..., None, :], 0).sum(-1), at.sum(-1)], -1).astype(np.float32)


@pytest.mark.parametrize("score_prompt", [False, True])
@pytest.mark.parametrize("size", [1, 4, 8])
def test_values_come_back_to_their_tokens(size, score_prompt):
  """Also where the prompt is scored too: its values lie between those of the answers."""
  examples = make_examples()
  shape = dataclasses.replace(SHAPE, answers=SHAPE.answers + score_prompt, score_prompt=score_prompt)
  found = [vectors for step in score_steps(ids_and_ranks, examples, shape, size=size) for vectors in step.by_token()]
  assert len(found) == len(examples)
  for example, vectors in zip(examples, found, strict=True):
    for answer, vector in zip(example.answers, vectors, strict=True):
      np.testing.assert_array_equal(vector, 100.0 * answer + len(example.prompt) - 1 + np.arange(len(answer)))


def test_values_come_back_to_their_answers():
  examples = make_examples()
  found = [values for step in score_steps(sums_of_answers, examples, SHAPE, size=8) for values in step.by_answer()]
  assert len(found) == len(examples)
  for example, values in zip(examples, found, strict=True):
    np.testing.assert_array_equal(values, [[sum(answer), len(answer)] for answer in example.answers])


def test_examples_are_numbered_by_their_place():
  """Whatever numbers they bring: those of a data set that they are a part of."""
  examples = [dataclasses.replace(example, index=7) for example in make_examples(9)]
  steps = list(score_steps(ids_and_ranks, examples, SHAPE, size=4))
  assert [[example.index for example in step.examples] for step in steps] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


def test_an_example_that_was_not_scored_is_named():
  examples = [dataclasses.replace(example, index=i) for i, example in enumerate(make_examples(4))]
  batch = pack(examples[:3], SHAPE)
  with pytest.raises(DataError, match=r"example 3: the scored tokens of its packed row are not those of its answers"):
    ScoredStep(examples, batch, ids_and_ranks(batch)).by_token()
  with pytest.raises(DataError, match=r"hold examples \[0, 1, 2\] where examples \[0, 1, 2, 3\] were to be scored"):
    ScoredStep(examples, batch, sums_of_answers(batch)).by_answer()


@pytest.mark.parametrize(
  "answers",
  [
    ([3, 4], [5]),  # another token
    ([3, 4, 6], [5, 7]),  # a token that nothing scored
    ([3], [6]),
    ([3, 4, 5], [6]),  # the same tokens, divided otherwise
    ([3], [4, 5, 6]),
  ],
)
def test_other_tokens_than_the_answers_are_an_error(answers):
  ids = lambda *texts: tuple(np.asarray(text, np.int32) for text in texts)  # noqa: E731
  batch = pack([TokenExample(*ids([1, 2]), ids([3, 4], [5, 6]), index=5)], SHAPE)
  step = ScoredStep([TokenExample(*ids([1, 2]), ids(*answers), index=5)], batch, ids_and_ranks(batch))
  with pytest.raises(DataError, match=r"example 5: the scored tokens"):
    step.by_token()


def test_groups_go_through_one_by_one_and_compile_once():
  traced = []

  def double(model, params, rows):
    traced.append(rows.tokens.shape)
    return rows.target * params

  scorer = Scorer(double, None, np.int32(2))
  dataset = TokenDataset.from_examples([(e.prompt, e.answers) for e in make_examples(12)])
  for size, shape in ((4, SHAPE), (8, SHAPE), (12, dataclasses.replace(SHAPE, groups=6))):
    for step in score_steps(scorer, dataset, shape, size=size):
      values = step.values.copy()
      assert values.shape == step.batch.target.shape
      np.testing.assert_array_equal(values, 2 * step.batch.target)
  assert traced == [(2, 32)]
