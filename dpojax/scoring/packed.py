"""The one loop over given text: examples in order, packed a step at a time, through one function of (params, rows).

::

  examples 0 1 2 3 4 5 6 | 7 8 9      steps of `size` neighbours, each packed into row groups of one static shape
           -> rows of group 0, 1, ..  one jitted function of (params, rows) each, on one device or sharded over many
           -> values by example       back in the order of examples, answers and tokens; every one of them, or an error
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from dpojax.config.schema import BatchSettings
from dpojax.data.batch_shape import bucket
from dpojax.data.batches import Batches
from dpojax.data.examples import TokenDataset, TokenExample
from dpojax.data.packing import BatchShape, pack
from dpojax.data.slots import locate
from dpojax.errors import DataError
from dpojax.parallel.placement import place_batch, place_params, to_host
from dpojax.types import Array, PackedBatch, Params

SHORTEST_ROW = 512
EXAMPLES_AT_ONCE = 32

RowFunction = Callable[[Any, Params, PackedBatch], jax.Array]  # (model, params, rows of a group) -> [R, ...]
Score = Callable[[PackedBatch], Array]  # a packed step -> [G, R, ...]
Progress = Callable[[int, int], None]


class Scorer:
  """A packed step of NumPy arrays -> [G, R, ...] values of its rows, 0 in groups that are not in use.

  Scorers of the same function and of equal models share their compiled programs. The step's groups go
  through one by one, so the number of groups compiles nothing new.

  Args:
    function: of (model, params, rows); jitted here, so a function of a module, not one made anew for each call.
    model: hashable; its `parameters`, where it declares any, say how they are laid out.
    params: what the function reads as parameters: a pytree, or a tuple of several.
    mesh: the devices that share parameters and rows; None: where the parameters are, or the default device.

  Raises:
    ConfigError: the parameters, or the rows of a group, do not divide by the mesh.
  """

  def __init__(self, function: RowFunction, model: Any, params: Params, mesh: Mesh | None = None):
    self._function, self._model, self._mesh = function, model, mesh
    self._params = place_params(params, mesh, getattr(model, "parameters", {}))

  def __call__(self, batch: PackedBatch) -> np.ndarray:
    used = [to_host(self._group(batch, g)) for g in range(max(1, int(batch.num_groups)))]
    values = np.zeros((batch.tokens.shape[0], *used[0].shape), used[0].dtype)
    values[: len(used)] = used
    return values

  def _group(self, batch: PackedBatch, g: int) -> jax.Array:
    one = jax.tree.map(lambda x: np.asarray(x)[g : g + 1], dataclasses.replace(batch, num_groups=None))
    return _values(self._function, self._model, self._params, place_batch(one, self._mesh))


@functools.partial(jax.jit, static_argnames=("function", "model"))
def _values(function: RowFunction, model: Any, params: Params, one_group: PackedBatch) -> jax.Array:
  return function(model, params, one_group.group(0))


@dataclasses.dataclass(frozen=True)
class ScoredStep:
  """Some neighbours among the examples, and what a scorer says of them.

  Attributes:
    examples: numbered by their `index`, which rises by 1.
    batch: they packed.
    values: [G, R, S, ...] by scored slot, or [G, R, E * K, ...] by answer slot.
  """

  examples: Sequence[TokenExample]
  batch: PackedBatch
  values: np.ndarray

  def by_token(self) -> list[list[np.ndarray]]:
    """[A, ...] values of the tokens of every answer of every example, of values [G, R, S, ...] by scored slot.

    Raises:
      DataError: the batch does not hold exactly the examples' answers.
    """
    first = self.examples[0].index
    answers = np.asarray([len(example.answers) for example in self.examples])
    slots = locate(self.batch)
    slots = slots.of_answers(answers[slots.example - first]).in_order()
    number = (np.cumsum(answers) - answers)[
      slots.example - first
    ] + slots.answer  # of the answer, among all of the step
    self._check_tokens(number, np.asarray(self.batch.target).reshape(-1)[slots.place])
    lengths = [len(answer) for example in self.examples for answer in example.answers]
    by_slot = self.values.reshape(-1, *self.values.shape[3:])
    vectors = iter(np.split(by_slot[slots.place], np.cumsum(lengths)[:-1]))
    return [[next(vectors) for _ in example.answers] for example in self.examples]

  def sums(self) -> list[np.ndarray]:
    """f64[K] of every example: the values of `by_token` summed over each answer, token by token."""
    return [_sums(vectors) for vectors in self.by_token()]

  def by_answer(self) -> list[np.ndarray]:
    """f64[K, ...] values of the answers of every example, of values by answer slot.

    Raises:
      DataError: the batch does not hold every example exactly once.
    """
    first, number = self.examples[0].index, self.batch.answers_per_example
    example_index = np.asarray(self.batch.example_index)
    places = np.argwhere(example_index >= 0)
    held = example_index[tuple(places.T)]
    self._check_examples(held)
    found: list[np.ndarray] = [np.zeros(0)] * len(self.examples)
    for n, (group, row, slot) in zip((held - first).tolist(), places.tolist(), strict=True):
      answers = slice(slot * number, slot * number + len(self.examples[n].answers))
      found[n] = self.values[group, row, answers].astype(np.float64)
    return found

  def _check_examples(self, held: np.ndarray) -> None:
    wanted = [example.index for example in self.examples]
    if sorted(held.tolist()) != wanted:
      raise DataError(f"packed rows hold examples {sorted(held.tolist())} where examples {wanted} were to be scored")

  def _check_tokens(self, number: np.ndarray, target: np.ndarray) -> None:
    """Every token of every answer has a slot, and no token has two; `number` is that of the answer."""
    answers = [(example.index, answer) for example in self.examples for answer in example.answers]
    lengths = [len(answer) for _, answer in answers]
    tokens = np.concatenate([answer for _, answer in answers])
    if np.array_equal(number, np.repeat(np.arange(len(answers)), lengths)) and np.array_equal(target, tokens):
      return
    wrong = next(i for n, (i, answer) in enumerate(answers) if not np.array_equal(target[number == n], answer))
    raise DataError(f"example {wrong}: the scored tokens of its packed row are not those of its answers")


def _sums(vectors: Sequence[np.ndarray]) -> np.ndarray:
  owner = np.repeat(np.arange(len(vectors)), [len(vector) for vector in vectors])
  return np.bincount(owner, np.concatenate(vectors), minlength=len(vectors))


def score_steps(
  score: Score, examples: Sequence[TokenExample] | TokenDataset, shape: BatchShape, *, size: int
) -> Iterator[ScoredStep]:
  """Scores `size` examples at a time, in order, each exactly once.

  Args:
    score: a `Scorer`, or any function of a packed step [G, R, ...].
    examples: any number; they are numbered by their place here.
    shape: of the packed steps.
    size: examples of a step that `shape` has room for; one a row always fits.

  Raises:
    DataError: an example does not fit a row, or a step not the shape.
  """
  for start in range(0, len(examples), size):
    numbers = range(start, min(start + size, len(examples)))
    step = [dataclasses.replace(examples[i], index=i) for i in numbers]
    batch = pack(step, shape)
    yield ScoredStep(step, batch, to_host(score(batch)))


def score_dataset(
  score: Score, dataset: TokenDataset, *, rows: int, row_length: int, progress: Progress | None = None
) -> Iterator[ScoredStep]:
  """Scores a data set, in a shape chosen from its lengths.

  Args:
    score: see `score_steps`.
    dataset: at least one example, with any number of answers.
    rows: rows of a group that goes through the model at once.
    row_length: tokens of a row; 0: long enough for the longest example.
    progress: called with (examples done, tokens done) after each step.

  Raises:
    DataError: there is no example, or one does not fit a row of the given length; names where it was read.
  """
  row_length = row_length or bucket(max(SHORTEST_ROW, dataset.longest_segment))
  settings = BatchSettings(size=EXAMPLES_AT_ONCE, rows=rows, row_length=row_length)
  shape = Batches(dataset, settings).shape  # makes sure, before anything is computed, that every example fits
  tokens = 0
  for step in score_steps(score, dataset, shape, size=EXAMPLES_AT_ONCE):
    yield step
    tokens += sum(example.row_tokens() for example in step.examples)
    if progress is not None:
      progress(step.examples[-1].index + 1, tokens)
