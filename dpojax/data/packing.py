"""Packing: examples of many lengths into row groups of one static shape."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from dpojax.data.examples import TokenExample, check_example
from dpojax.errors import DataError
from dpojax.types import PackedBatch


@dataclasses.dataclass(frozen=True)
class BatchShape:
  """Static shape of a packed step.

  Attributes:
    groups: G row groups, enough for one example a row: the shape never changes with the data.
    rows: R rows of a group.
    length: L tokens of a row.
    scored: S scored slots of a row.
    examples: E example slots of a row.
    answers: K answer slots of an example.
    score_prompt: the prompt's tokens but for the first are scored too, as the last of the K answer slots.
  """

  groups: int
  rows: int
  length: int
  scored: int
  examples: int
  answers: int
  score_prompt: bool = False


def plan_rows(
  tokens: Sequence[int], scored: Sequence[int], *, length: int, slots: int, examples: int, tries: int | None = None
) -> list[list[int]]:
  """Which examples share a row: best-fit decreasing over three capacities, and some nearby orders.

  Longest first, each example goes into the fullest row that still takes it, else into a new one::

    lengths 5 4 3 3 2 2 1, row length 8   ->   5 3 . | 4 3 1 | 2 2 . . . .      (by row: 8, 8, 4)

  While more rows are used than the totals need, orders with lengths taken up to a quarter longer or
  shorter are tried as well, and the fewest rows win: on HH, 32 examples a step, 1 to 2 % fewer rows.

  Args:
    tokens: row tokens of each example.
    scored: scored tokens of each example.
    length, slots, examples: capacities of a row in tokens, scored slots and examples.
    tries: further orders; None: 40, fewer for very large steps.

  Returns:
    Rows of positions into `tokens`, each in rising order. A pure function of the arguments.
  """
  count = len(tokens)
  capacity = (length, slots, examples)

  def fitted(weight: Sequence[float]) -> list[list[int]]:
    return _best_fit(sorted(range(count), key=lambda i: (-weight[i], i)), tokens, scored, capacity)

  rows = fitted(tokens)
  needed = max(-(-sum(tokens) // length), -(-sum(scored) // slots), -(-count // examples))
  noise = np.random.Philox(0)
  for _ in range(min(40, 5000 // max(count, 1)) if tries is None else tries):
    if len(rows) <= needed:
      break
    factors = 0.75 + 0.5 * (noise.random_raw(count) / 2.0**64)
    other = fitted((factors * tokens).tolist())
    rows = min(rows, other, key=len)
  return [sorted(row) for row in rows]


def _best_fit(
  order: Sequence[int], tokens: Sequence[int], scored: Sequence[int], capacity: tuple[int, int, int]
) -> list[list[int]]:
  """Each example in turn into the row with the least room in tokens that still takes it."""
  rows: list[list[int]] = []
  room: list[list[int]] = []  # tokens, scored slots and examples left of each row
  for i in order:
    fitting = [r for r, (t, s, e) in enumerate(room) if t >= tokens[i] and s >= scored[i] and e >= 1]
    if fitting:
      best = min(fitting, key=lambda r: room[r][0])
    else:
      best = len(rows)
      rows.append([])
      room.append(list(capacity))
    rows[best].append(i)
    room[best][0] -= tokens[i]
    room[best][1] -= scored[i]
    room[best][2] -= 1
  return rows


def pack(examples: Sequence[TokenExample], shape: BatchShape, *, share_prompt: bool = True) -> PackedBatch:
  """Packs one step of examples into row groups.

  Args:
    examples: any number whose rows fit `shape.groups * shape.rows`; `shape` made for a step of that
      many examples always suffices.
    shape: capacities; see `dpojax.data.batch_shape.choose_shape`.
    share_prompt: store a prompt once for all its answers; otherwise repeat it before each answer, one
      segment per answer.

  Returns:
    PackedBatch of NumPy arrays with leading axes [G, R]; `num_groups` says how many groups are used.

  Raises:
    DataError: an example is empty or larger than a row of `shape`.
  """
  tokens = [example.row_tokens(share_prompt) for example in examples]
  scored = [example.scored_slots(shape.score_prompt) for example in examples]
  for example, size, slots in zip(examples, tokens, scored, strict=True):
    check_fits(example, size, slots, shape)
  plan = plan_rows(tokens, scored, length=shape.length, slots=shape.scored, examples=shape.examples)
  if len(plan) > shape.groups * shape.rows:
    raise DataError(f"{len(examples)} examples need {len(plan)} rows, but {shape} has {shape.groups * shape.rows}")

  capacity = shape.groups * shape.rows
  batch = empty_rows(capacity, shape)
  for r, members in enumerate(plan):
    fill_row(batch, r, [examples[i] for i in members], shape, share_prompt)
  grouped = {name: array.reshape(shape.groups, shape.rows, -1) for name, array in batch.items()}
  used = np.asarray(-(-len(plan) // shape.rows), np.int32)
  return PackedBatch(**grouped, num_groups=used, answers_per_example=shape.answers, score_prompt=shape.score_prompt)


def check_fits(example: TokenExample, tokens: int, scored: int, shape: BatchShape, where: str = "") -> None:
  """Raises DataError if the example is larger than a row of `shape`."""
  where = where or f"example {example.index}"
  check_example(example, where)
  if tokens > shape.length:
    raise DataError(
      f"{where}: its {tokens} tokens do not fit a row of {shape.length}; raise batch.row_length or set data.max_example"
    )
  if scored > shape.scored:
    raise DataError(
      f"{where}: its {scored} answer tokens do not fit {shape.scored} scored slots; raise batch.scored (0: chosen from "
      "the data) or set data.max_answer"
    )
  room = shape.answers - shape.score_prompt
  if len(example.answers) > room:
    raise DataError(f"{where}: it has {len(example.answers)} answers, but the batch has room for {room}")


def empty_rows(rows: int, shape: BatchShape) -> dict[str, np.ndarray]:
  """The arrays of `rows` empty rows, by field of `PackedBatch`."""

  def full(width: int, value: float, dtype: type = np.int32) -> np.ndarray:
    return np.full((rows, width), value, dtype)

  return {
    "tokens": full(shape.length, 0),
    "position": full(shape.length, 0),
    "segment": full(shape.length, -1),
    "answer": full(shape.length, -1),
    "scored_at": full(shape.scored, 0),
    "target": full(shape.scored, 0),
    "answer_of": full(shape.scored, shape.examples * shape.answers),
    "example_index": full(shape.examples, -1),
    "example_weight": full(shape.examples, 0.0, np.float32),
    "example_label": full(shape.examples, 0.0, np.float32),
    "example_margin": full(shape.examples, 0.0, np.float32),
    "answer_end": full(shape.examples * shape.answers, 0),
  }


def fill_row(
  batch: dict[str, np.ndarray], r: int, examples: Sequence[TokenExample], shape: BatchShape, share_prompt: bool
) -> None:
  """Writes `examples` one after another into row `r`."""
  at = slot = segment = 0

  def write(ids, position, answer):
    nonlocal at
    span = slice(at, at + len(ids))
    batch["tokens"][r, span] = ids
    batch["position"][r, span] = np.arange(position, position + len(ids))
    batch["segment"][r, span] = segment
    batch["answer"][r, span] = answer
    at += len(ids)

  def score(targets, predicted_at, answer):
    nonlocal slot
    span = slice(slot, slot + len(targets))
    batch["scored_at"][r, span] = predicted_at
    batch["target"][r, span] = targets
    batch["answer_of"][r, span] = answer
    slot += len(targets)

  for e, example in enumerate(examples):
    batch["example_index"][r, e] = example.index
    batch["example_weight"][r, e] = example.weight
    batch["example_label"][r, e] = example.label
    batch["example_margin"][r, e] = example.margin
    for k, answer in enumerate(example.answers):
      number = e * shape.answers + k
      if k == 0 or not share_prompt:
        write(example.prompt, 0, -1)
        prompt_end = at - 1
        if k == 0 and shape.score_prompt:
          first = at - len(example.prompt)
          score(example.prompt[1:], range(first, prompt_end), (e + 1) * shape.answers - 1)
      # The first token is predicted at the prompt's last position, the others at their predecessor.
      predicted_at = np.asarray([prompt_end, *range(at, at + len(answer) - 1)])
      chosen = example.learned[k] if example.learned else slice(None)
      score(answer[chosen], predicted_at[chosen], number)
      write(answer, len(example.prompt), number)
      batch["answer_end"][r, number] = at - 1
      if not share_prompt or k == len(example.answers) - 1:
        segment += 1
