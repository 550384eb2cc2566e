"""Choosing the static shape of packed steps from the lengths of the data."""

import numpy as np

from dpojax.config.schema import BatchSettings
from dpojax.data.examples import TokenDataset
from dpojax.data.packing import BatchShape, plan_rows
from dpojax.errors import DataError

SIMULATED_STEPS = 8
HEAD_COST = 0.25  # cost of a scored slot's vocabulary head relative to a token's layers; only ranks candidates


def choose_shape(
  dataset: TokenDataset, batch: BatchSettings, held_out: TokenDataset | None = None, *, score_prompt: bool = False
) -> BatchShape:
  """The shape that packs this data at least cost, and that `held_out` fits too (one compilation for both).

  More scored slots a row let rows fill up with tokens; fewer let the vocabulary head run on fewer
  empty slots. A few steps are planned for each number of slots (multiples of 64, of 8 in short rows)
  and the cheapest sum of tokens and slots wins. `batch.scored` and `batch.examples` override.
  With `score_prompt` the prompts' tokens are scored too.

  Raises:
    DataError: the data set is empty, or an example is longer than a row.
  """
  if len(dataset) == 0:
    raise DataError("there are no examples to pack: all rows were dropped, see `dpojax data inspect`")
  tokens = np.asarray([dataset[i].row_tokens(batch.share_prompt) for i in range(len(dataset))])
  scored = np.asarray([dataset[i].scored_slots(score_prompt) for i in range(len(dataset))])
  draws = np.random.Generator(np.random.Philox(0))
  steps = [draws.integers(0, len(dataset), batch.size) for _ in range(SIMULATED_STEPS)]

  others = [held_out[i] for i in range(len(held_out))] if held_out is not None else []
  least = max([int(scored.max()), *(example.scored_slots(score_prompt) for example in others)])

  def planned(slots, examples):
    return [
      plan_rows(
        tokens[step].tolist(), scored[step].tolist(), length=batch.row_length, slots=slots, examples=examples, tries=0
      )
      for step in steps
    ]

  def cost(slots):
    rows = sum(len(plan) for plan in planned(slots, batch.examples or batch.size))
    return rows * (batch.row_length + HEAD_COST * slots)

  slots = batch.scored or min(slot_candidates(least, batch.row_length), key=cost)
  busiest = max(len(row) for plan in planned(slots, batch.size) for row in plan)
  # Example slots cost next to nothing; a quarter more than seen keeps them from binding.
  examples = batch.examples or min(batch.size, busiest + -(-busiest // 4))
  return BatchShape(
    groups=-(-batch.size // batch.rows),
    rows=batch.rows,
    length=batch.row_length,
    scored=slots,
    examples=examples,
    answers=max([dataset.num_answers, *(len(example.answers) for example in others)]) + score_prompt,
    score_prompt=score_prompt,
  )


def slot_candidates(least: int, row_length: int) -> list[int]:
  """Numbers of scored slots to try: from what the largest example needs up to a full row."""
  unit = 64 if row_length >= 256 else 8
  first = min(-(-least // unit) * unit, max(row_length, least))
  return sorted({first, *(s for s in range(first, row_length + 1, unit))})


def bucket(size: int) -> int:
  """The next of 16, 24, 32, 48, 64, 96, …: at most half more than `size`, and few different shapes."""
  step = 16
  while step < size:
    if step * 3 // 2 >= size:
      return step * 3 // 2
    step *= 2
  return step
