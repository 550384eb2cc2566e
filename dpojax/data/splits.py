"""The training and held-out examples of a stage, as its loss reads them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from dpojax.config.schema import DataSettings
from dpojax.data.dataset import dataset_from_rows, hold_out, load_dataset
from dpojax.data.examples import TokenDataset
from dpojax.data.token_cache import TokenCache
from dpojax.data.unpaired import unpaired, with_mismatched
from dpojax.errors import DataError
from dpojax.interop.tokenizer import Tokenizer
from dpojax.types import Answers


@dataclasses.dataclass(frozen=True)
class Splits:
  """Training and held-out examples; `held_out` may be empty."""

  train: TokenDataset
  held_out: TokenDataset


def read_splits(
  settings: DataSettings,
  tokenizer: Tokenizer,
  *,
  answers: Answers,
  row_length: int,
  max_positions: int,
  vocab_size: int,
  rows: Sequence[Mapping[str, Any]] | None = None,
  mismatched: bool = False,
  loss: str = "",
) -> Splits:
  """Tokenised training and held-out examples.

  Args:
    settings: source, format, template, limits, what is held out.
    tokenizer: text to ids.
    answers: what an example is to hold.
    row_length: tokens of a packed row.
    max_positions, vocab_size: of the model.
    rows: in memory, in the place of what `settings` name.
    mismatched: each example gets another's answer beside its own, for losses that read it.
    loss: its name, for messages.

  Raises:
    DataError: a file, row or column is wrong, nothing is left to train on, an example has another number of answers
      than the loss compares, is longer than the model's positions or has a token beyond its embedding, or all weights
      are 0.
  """
  if rows is not None:
    dataset = dataset_from_rows(rows, settings, tokenizer, answers=answers, row_length=row_length)
    train, held_out = hold_out(dataset, settings.eval_fraction, settings.seed)
  else:
    cache = TokenCache.from_environment()
    train, held_out = load_dataset(settings, tokenizer, answers=answers, row_length=row_length, cache=cache)
  if len(train) == 0:
    raise DataError(f"no example is left to train on: {train.counts}")
  if not any(train[i].weight > 0 for i in range(len(train))):
    raise DataError(
      f"{train.where(0)}: column 'weight' is 0 in all {len(train):,} training examples, so nothing would be learned; "
      "give at least one a weight above 0"
    )
  for part in (train, held_out):
    part.check_vocabulary(vocab_size, tokenizer)
  options: dict[str, Any] = dict(row_length=row_length, max_positions=max_positions, mismatched=mismatched, loss=loss)
  ready = as_the_loss_reads(train, answers, **options, part="the training part")
  return Splits(ready, as_the_loss_reads(held_out, answers, **options, others=ready, part="the held-out part"))


def as_the_loss_reads(
  dataset: TokenDataset,
  answers: Answers,
  *,
  row_length: int,
  max_positions: int,
  mismatched: bool = False,
  loss: str = "",
  others: TokenDataset | None = None,
  part: str = "",
) -> TokenDataset:
  """Examples of the right number of answers, single ones where the loss reads these. See `read_splits` and `with_mismatched`."""
  if loss:
    _check_answers(dataset, answers, loss)
  if answers is Answers.UNPAIRED and len(dataset):
    dataset = unpaired(dataset)
    if mismatched:
      dataset = with_mismatched(dataset, row_length=row_length, max_positions=max_positions, others=others, part=part)
  dataset.check_positions(max_positions)
  return dataset


def first_distinct_prompts(dataset: TokenDataset, wanted: int) -> list[int]:
  """Indices of the first examples with different prompts."""
  seen: dict[bytes, int] = {}
  for i in range(len(dataset)):
    seen.setdefault(dataset[i].prompt.tobytes(), i)
    if len(seen) == wanted:
      break
  return list(seen.values())


def _check_answers(dataset: TokenDataset, answers: Answers, loss: str) -> None:
  wanted = {Answers.PAIR: 2, Answers.TRIPLE: 3}.get(answers)
  for i in range(len(dataset) if wanted else 0):
    found = len(dataset[i].answers)
    if found != wanted:
      pairs = "make pairs of them (data.pairs=all, best_worst or adjacent), " if wanted == 2 and found > 2 else ""
      raise DataError(
        f"{dataset.where(i)}: it has {found} answers, but loss.name={loss} compares {wanted}; {pairs}give rows of that many "
        "(data.format), choose a loss on rankings, or train on the best answer with recipe=sft"
      )
