"""The containers that pass between layers: packed batches, log-probs, samples.

This module imports nothing of ours, so every layer may use it. All containers are immutable pytrees
whose leaves are NumPy arrays on the host and JAX arrays on the device.

Axis names used throughout: G row groups, R rows of a group, L row length, S scored slots of a row,
E example slots of a row, K answers of an example (the largest of the data set), B pairs.
"""

import dataclasses
import enum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray


class Answers(enum.Enum):
  """What an example holds beside its prompt: what a loss compares, a stage reads, a row format gives.

  The loss of a reward model reads the same examples as one of log-probs, and says so itself (`Loss.of_rewards`).
  """

  ONE = "one"  # an answer to learn writing from
  PAIR = "pair"  # a preferred answer and another
  TRIPLE = "triple"  # a gold answer, a preferred one and another
  RANKING = "ranking"  # two or more answers, best first
  UNPAIRED = "unpaired"  # an answer that is desirable or not
  ANY = "any"  # any number, in no order: to be scored

  @property
  def compared(self) -> bool:
    """Whether an example's answers are compared with one another."""
    return self in (Answers.PAIR, Answers.TRIPLE, Answers.RANKING)

  @property
  def number(self) -> int | None:
    """How many answers an example of compared ones has; None: it depends."""
    return {Answers.PAIR: 2, Answers.TRIPLE: 3}.get(self)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedBatch:
  """Packed rows in which an example is a prompt with K >= 1 answers and the prompt appears once.

  One row, two examples with K = 2 (slot numbers as stored)::

      tokens    P P P a a b b b | Q Q c c d d d .
      position  0 1 2 3 4 3 4 5 | 0 1 2 3 2 3 4 0     each answer continues from its prompt
      segment   0 0 0 0 0 0 0 0 | 1 1 1 1 1 1 1 -1    attention never leaves a segment
      answer   -1-1-1 0 0 1 1 1 |-1-1 2 2 3 3 3 -1    answers of one prompt never see each other

  Token i attends to token j when both are in one segment, j <= i in the row, and j is a prompt token
  or belongs to i's own answer. Answer slot `e * K + k` holds answer k (0 the chosen one of a pair) of
  the example in slot e. A scored slot says: the hidden state at `scored_at` predicts `target`, a
  token of answer slot `answer_of`. The first token of every answer is predicted at the last prompt
  position, which its answers share. Slots of an answer are in the order of its tokens.

  Leading axes: [G, R, ...] for a whole step, [R, ...] for one group inside the step's loop.
  With `share_prompt=False` the packer repeats the prompt before every answer, one segment each, in
  the same container: the oracle of the shared form.

  Attributes:
    tokens: i32[..., L], 0 where empty.
    position: i32[..., L], position within prompt + own answer, 0 where empty.
    segment: i32[..., L], -1 where empty.
    answer: i32[..., L], answer slot, -1 on prompt tokens and where empty.
    scored_at: i32[..., S], index into the row, 0 where empty.
    target: i32[..., S], token id, 0 where empty.
    answer_of: i32[..., S], answer slot, E * K where empty.
    example_index: i32[..., E], index of the example in its data set, -1 where empty.
    example_weight: f32[..., E], 0 where empty.
    example_label: f32[..., E], what was observed of answer 0: 1 it won, or is desirable; 0 it lost, or is not;
      1/2 a tie; 0 where empty.
    example_margin: f32[..., E], by how much it won, in whatever unit the data has; 0 where not known.
    example_opponent: i32[..., E], which answer of a pair the reference wrote, 0 or 1, -1 where empty; None: not known.
    answer_end: i32[..., E * K], index into the row of an answer's last token, 0 where empty.
    reference_logp: f32[..., S] cached reference log-probs of `target`, or None.
    behaviour_logp: f32[..., S] of a roll-out: log-probs of `target` under the policy that wrote it; else None, as the next.
    advantage: f32[..., S] how much better than expected the token turned out.
    old_value: f32[..., S] what the critic expected there when the roll-out was made.
    value_target: f32[..., S] what it should have expected.
    num_groups: i32[], how many of the G groups hold examples; None inside the step's loop.
    answers_per_example: K (static), so that a row has E * K answer slots.
    score_prompt: (static) the prompt's tokens but for the first are scored too, in the last of the K answer
      slots; it has no tokens of its own in `answer` and no `answer_end`.
  """

  tokens: Array
  position: Array
  segment: Array
  answer: Array
  scored_at: Array
  target: Array
  answer_of: Array
  example_index: Array
  example_weight: Array
  example_label: Array
  example_margin: Array
  answer_end: Array
  example_opponent: Array | None = None
  reference_logp: Array | None = None
  behaviour_logp: Array | None = None
  advantage: Array | None = None
  old_value: Array | None = None
  value_target: Array | None = None
  num_groups: Any = None
  answers_per_example: int = dataclasses.field(default=2, metadata=dict(static=True))
  score_prompt: bool = dataclasses.field(default=False, metadata=dict(static=True))

  @property
  def num_answers(self) -> int:
    """Answer slots of a row, E * K."""
    return self.example_index.shape[-1] * self.answers_per_example

  @property
  def filled(self) -> Array:
    """bool[..., S]: which scored slots hold a token."""
    return self.answer_of < self.num_answers

  def flat(self) -> "PackedBatch":
    """A whole step as one group: the axes G and R joined; groups that are not in use are empty rows."""
    arrays = dataclasses.replace(self, num_groups=None)
    return jax.tree.map(lambda x: jnp.asarray(x).reshape(-1, *x.shape[2:]), arrays)

  def group(self, index) -> "PackedBatch":
    """Row group `index` of a whole step: every array loses its leading axis."""
    arrays = dataclasses.replace(self, num_groups=None)
    return jax.tree.map(lambda x: jnp.asarray(x)[index], arrays)


def sum_by_answer(values: Array, answer_of: Array, num_answers: int) -> jax.Array:
  """Sums [R, S] values into [R, num_answers]; slots with answer_of == num_answers are dropped."""

  # By a mask and not by `segment_sum`: a GPU's scatter adds in whatever order threads come, and no two runs agree.
  values, answer_of = jnp.asarray(values), jnp.asarray(answer_of)
  numbers = jnp.broadcast_to(jnp.arange(num_answers, dtype=answer_of.dtype), (*answer_of.shape, num_answers))
  of_answer = answer_of[..., None] == numbers
  return jnp.sum(jnp.where(of_answer, values[..., None], 0), axis=-2, dtype=values.dtype)


def floats_as(dtype: Any, tree: Any) -> Any:
  """The pytree with its floating-point arrays, and Python floats, as arrays of that dtype; others as they are."""
  return jax.tree.map(lambda x: jnp.asarray(x, dtype) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else x, tree)


@dataclasses.dataclass(frozen=True)
class Parameter:
  """What a model declares of one of its parameters; see `dpojax.models.parameters`.

  Attributes:
    shape: of the array.
    axes: what each dimension runs along, a name of `parallel.rules.MESH_AXES`, or None: it is never split.
    init: how it begins: "normal" (mean 0, standard deviation `std`), "ones" or "zeros".
    std: see `init`.
    decay: which of `optimizer.decay_rule`'s kinds it is: "matrix", "embedding", or "none" (norms, biases, heads).
    in_place: whether its gradient may be added to a step's sum where that lies: the model reads it once a pass by
      `ops.summed.scan_layers` or `take`, and otherwise by `plain`.
  """

  shape: tuple[int, ...]
  axes: tuple[str | None, ...]
  init: str = "normal"
  std: float = 1.0
  decay: str = "none"
  in_place: bool = False

  def draw(self, key: jax.Array, dtype: Any = float) -> jax.Array:
    """An initial value; only "normal" reads the key."""
    if self.init == "normal":
      return jax.random.normal(key, self.shape, dtype) * self.std
    return jnp.full(self.shape, {"ones": 1, "zeros": 0}[self.init], dtype)


Declared = Any  # a pytree of `Parameter`, each under the path that its array has among the parameters
Params = Any  # a pytree of arrays; of a model a nested dict, what `nnx.split` leaves of its parameters
Metrics = dict[str, tuple[jax.Array, jax.Array]]  # name -> (sum, count), divided once on the host
