"""Unpaired answers, each desirable or not, made from pairs, and the mismatched answers that KTO compares them with."""

import dataclasses
from collections.abc import Sequence

from dpojax.data.examples import TokenDataset, TokenExample
from dpojax.errors import DataError


def unpaired(dataset: TokenDataset) -> TokenDataset:
  """Every answer of a pair as an example of its own: the chosen one desirable, the rejected one not.

  Examples with one answer stay as they are. A tie says nothing of either answer and is left out, counted as
  `dropped/ties`::

      x: w > l        x: w (label 1)
                      x: l (label 0)

  Raises:
    DataError: an example has more than two answers, or nothing is left.
  """
  examples: list[TokenExample] = []
  metadata = []
  ties = 0
  for i in range(len(dataset)):
    example = dataset[i]
    if len(example.answers) > 2:
      raise DataError(
        f"{dataset.where(i)}: it has {len(example.answers)} answers; single answers are made of pairs or of rows "
        "with a label"
      )
    if len(example.answers) == 2 and example.label == 0.5:
      ties += 1
      continue
    labels = [example.label] if len(example.answers) == 1 else [example.label, 1 - example.label]
    for answer, label in zip(example.answers, labels, strict=True):
      examples.append(dataclasses.replace(example, answers=(answer,), label=label, margin=0.0))
      metadata.append(dataset.metadata[i])
  if not examples:
    raise DataError("no single answers are left: every pair is a tie")
  counts = dict(dataset.counts) | ({"dropped/ties": ties} if ties else {})
  warnings = list(dataset.warnings)
  if len({example.label for example in examples}) == 1:
    kind = "desirable" if examples[0].label else "undesirable"
    warnings.append(f"all {len(examples):,} answers are {kind} (label): nothing is told of the other kind")
  return TokenDataset(
    examples,
    metadata=metadata,
    counts=counts,
    notes=dataset.notes,
    warnings=warnings,
    dropped=dataset.dropped,
    origin=f"{dataset.origin} single",
  )


def with_mismatched(
  dataset: TokenDataset,
  *,
  row_length: int,
  max_positions: int,
  others: TokenDataset | None = None,
  part: str = "",
) -> TokenDataset:
  """Adds to every example the answer of another one, as its last: scored after this prompt, never in the loss.

  The partner is the next example, in the order of the data set, whose prompt is another; partners do not
  change from epoch to epoch, so that a reference cache holds their log-probs. A partner's answer that does
  not fit beside the example is cut on the right.

  Args:
    dataset: to be completed.
    row_length, max_positions: which every example must fit.
    others: where partners are taken from if all of `dataset` have one prompt: of held-out examples those of training.
    part: how messages call `dataset`.

  Raises:
    DataError: all prompts are the same, of the others too, or an example leaves no room for one more token.
  """
  prompts = [dataset[i].prompt.tobytes() for i in range(len(dataset))]
  if len(set(prompts)) == 1 and others is not None:
    partners = _with_another_prompt(prompts, others, part)
  else:
    partners = [dataset[partner] for partner in _next_with_another_prompt(prompts, part)]
  examples = []
  for i, partner in enumerate(partners):
    example = dataset[i]
    room = min(row_length - example.row_tokens(), max_positions - len(example.prompt))
    if room < 1:
      raise DataError(
        f"{dataset.where(i)}: its {example.row_tokens()} tokens leave no room in a row of {row_length} for an answer "
        "to compare with; raise batch.row_length or set data.max_example"
      )
    other = partner.answers[0][:room]
    examples.append(dataclasses.replace(example, answers=(*example.answers, other)))
  return TokenDataset(
    examples,
    metadata=dataset.metadata,
    counts=dataset.counts,
    notes=dataset.notes,
    warnings=dataset.warnings,
    dropped=dataset.dropped,
    origin=f"{dataset.origin} mismatched",
    answer_names=("answer", "mismatched"),
  )


def _with_another_prompt(prompts: Sequence[bytes], others: TokenDataset, part: str) -> list[TokenExample]:
  """For each place the next of `others`, in turn, whose prompt is another than the one that all places have."""
  found = [others[i] for i in range(len(others)) if others[i].prompt.tobytes() != prompts[0]]
  if not found:
    raise _one_prompt(part)
  return [found[i % len(found)] for i in range(len(prompts))]


def _one_prompt(part: str) -> DataError:
  return DataError(
    f"all examples{f' of {part}' * bool(part)} have the same prompt, so there is no answer to another one to compare with; give rows of two "
    "prompts or more"
  )


def _next_with_another_prompt(prompts: Sequence[bytes], part: str) -> list[int]:
  """For each place the next one, going round, that holds another prompt."""
  if len(set(prompts)) < 2:
    raise _one_prompt(part)
  number = len(prompts)
  following = [0] * number
  # Backwards, twice round: what follows the next place serves here too while the prompt stays the same.
  for i in range(2 * number - 1, -1, -1):
    here, after = i % number, (i + 1) % number
    following[here] = after if prompts[after] != prompts[here] else following[after]
  return following
