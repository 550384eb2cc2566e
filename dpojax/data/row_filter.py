"""Filters rows: each is kept as an example, or dropped for a counted reason."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dpojax.config.schema import DataSettings
from dpojax.data.examples import TokenDataset, TokenExample, as_ids
from dpojax.data.formats import PreferenceRow
from dpojax.data.formats.common import Annotations, Answer, Message, answer_text, other_keys
from dpojax.data.limits import Limits, fit
from dpojax.data.rows import shown_message
from dpojax.data.tokenise import ODDITIES, PROMPT_DIFFERS, Tokenised
from dpojax.data.turns import Turn, join
from dpojax.errors import DataError, RowError
from dpojax.interop.tokenizer import Tokenizer
from dpojax.types import Answers

MOST_NOTES = 20
DROPPED = "dropped/"
OF_TURNS = ("turns_left_out", "turns_apart")  # counts of turns of conversations, not of rows
NOTED = ("malformed", "template_drops_text")  # reasons of which the first rows are told
# rows = kept + the sum of all dropped/...; the others count within the rows kept.
COUNTS = (
  "rows",
  "kept",
  "dropped/malformed",
  "dropped/template_drops_text",
  "dropped/empty_prompt",
  "dropped/empty_answer",
  "dropped/identical_answers",
  "dropped/prompt_too_long",
  "dropped/answer_too_long",
  "dropped/example_too_long",
  "dropped/duplicate_prompt",
  "dropped/held_out_prompt",
  "dropped/undesirable",
  "truncated/prompts",
  "truncated/answers",
  "duplicate_prompts",
  "boundary_mismatches",
  *ODDITIES,
  "contradicting_scores",
  "turns",
  "turns_left_out",
  "turns_apart",
  "repeated_answers",
  "ties",
  "with_margin",
  "with_weight",
  "answers",
  "answers_with_eos",
  "eos_inside_answers",
)


def prompt_key(example: TokenExample, prompted: bool) -> bytes:
  """The prompt's ids; a plain text has none to speak of (BOS, or its first token), so the whole text."""
  return example.prompt.tobytes() + (b"" if prompted else example.answers[0].tobytes())


def given_prompt(comparison: PreferenceRow, ids: Sequence[int], tokenizer: Tokenizer) -> str | list[Message]:
  """The prompt exactly as the row's format reads it: no template applied, nothing stripped or cut.

  Messages where a conversation is answered, the text where a text goes on. Rows of ids hold neither, and theirs are
  decoded.
  """
  return tokenizer.decode(ids) if comparison.kind == "ids" else comparison.prompt


def prompt_text(comparison: PreferenceRow, ids: Sequence[int], tokenizer: Tokenizer) -> str:
  """The prompt as a person reads it."""
  given = given_prompt(comparison, ids, tokenizer)
  if isinstance(given, str):
    return given
  if [message["role"] for message in given] == ["user"]:
    return given[0]["content"]
  return "\n\n".join(f"{message['role']}: {shown_message(message)}" for message in given)


def _is_empty(answer: Answer | list[int]) -> bool:
  """Whether an answer says nothing: neither text nor a tool call."""
  return not answer if isinstance(answer, list) else not answer_text(answer).strip() and not other_keys(answer)


def odd_in_words(odd: Mapping[str, str], counts: Mapping[str, int]) -> list[str]:
  """A line for each kind of oddity: how many rows, or turns, have it, and the first of them."""
  kept = f"{counts['kept']:,} rows"
  turns = f"{counts.get('turns', 0) + counts.get('turns_left_out', 0):,} turns"
  return [
    f"{name.replace('_', ' ')}: {counts[name]:,} of {turns if name in OF_TURNS else kept}; {what}"
    for name, what in odd.items()
  ]


def _from_turn_to_turn(first: PreferenceRow, last: PreferenceRow) -> str:
  """What a conversation says from one of its turns to another, as a person reads it."""
  ended = last.answers[0]
  conversation = [*last.prompt, {"role": "assistant", "content": ended} if isinstance(ended, str) else ended]
  answer, *rest = conversation[len(first.prompt) :]
  return "\n\n".join([shown_message(answer), *(f"{message['role']}: {shown_message(message)}" for message in rest)])


class RowFilter:
  """Keeps what can be used, and counts and notes what cannot."""

  def __init__(self, settings: DataSettings, tokenizer: Tokenizer, answers: Answers, row_length: int):
    self.settings, self.tokenizer, self.answers = settings, tokenizer, answers
    self.limits = Limits.of(settings, row_length, tokenizer.bos_id)
    self.counts: dict[str, int] = dict.fromkeys(COUNTS, 0)
    self.notes: list[str] = []
    self.warnings: list[str] = []
    self.odd: dict[str, str] = {}  # what is odd about rows -> the first of them, in words
    self.dropped: list[tuple[int, str]] = []
    self.examples: list[TokenExample] = []
    self.metadata: list[dict[str, Any]] = []
    self.prompts: set[bytes] = set()
    self.every_turn = False  # rows are conversations of which every turn is learned

  def take(self, where: str, read: Sequence[tuple[PreferenceRow | DataError, Tokenised | DataError]]) -> None:
    """Keeps the row, one comparison or the turns of a conversation, or counts why not."""
    self.counts["rows"] += 1
    if len(read) > 1:
      self.keep_turns(where, read)
      return
    ((comparison, ids),) = read
    if isinstance(comparison, DataError) or isinstance(ids, DataError):
      self.drop_for(where, comparison if isinstance(comparison, DataError) else ids)
      return
    if self.answers.compared and len(comparison.answers) < 2:
      self.drop("malformed", f"{where}: it has one answer, but preferences need two or more")
      return
    if self.answers is Answers.UNPAIRED and len(comparison.answers) == 1 and "label" not in comparison.details:
      self.drop("malformed", f"{where}: its answer has no label; single answers need one, true or false")
      return
    reason = self.keep(where, comparison, ids)
    if reason:
      self.drop(reason, f"{where}: {reason.replace('_', ' ')}", noted=False)

  def drop_for(self, where: str, error: Any) -> None:
    """Counts the row as left out because of an error."""
    reason = error.reason if isinstance(error, RowError) else "malformed"
    self.drop(reason, f"{where}: {error}", noted=reason in NOTED)

  def drop(self, reason: str, note: str, *, noted: bool = True) -> None:
    self.counts[f"{DROPPED}{reason}"] += 1
    self.dropped.append((self.counts["rows"] - 1, note))
    if noted and len(self.notes) < MOST_NOTES:
      self.notes.append(note)

  def keep(self, where: str, comparison: PreferenceRow, ids: Tokenised) -> str:
    """Adds the example; or says why it is dropped."""
    texts, prompt, answers = list(comparison.answers), ids.prompt, ids.answers
    if self.answers is Answers.ONE:
      texts, answers = texts[:1], answers[:1]
      if comparison.details.get("label") is False:
        return "undesirable"
    if any(_is_empty(text) for text in texts):
      return "empty_answer"
    if not prompt and not comparison.prompt and len(answers) == 1 and len(answers[0]) > 1:
      prompt, answers = answers[0][:1], [answers[0][1:]]  # plain text without BOS: nothing predicts its first token
    if not prompt:
      return "empty_prompt"
    fitted = fit(prompt, answers, self.limits)
    if isinstance(fitted, str):
      return fitted
    cut_prompt, cut_answers = fitted
    cuts = sum(len(cut) < len(answer) for cut, answer in zip(cut_answers, answers, strict=True))
    distinct = list(dict.fromkeys(map(tuple, cut_answers)))
    scores = comparison.scores if len(comparison.scores) == len(cut_answers) else ()  # else one answer alone is read
    repeated = 0
    if (self.answers.compared or self.answers is Answers.UNPAIRED) and len(distinct) < len(cut_answers):
      if len(distinct) < 2:
        return "identical_answers"
      first = [[tuple(a) for a in cut_answers].index(answer) for answer in distinct]
      texts = [texts[i] for i in first]
      scores = tuple(scores[i] for i in first) if scores else ()
      repeated = len(cut_answers) - len(distinct)
      cut_answers = [list(answer) for answer in distinct]
    annotations = comparison.annotations
    example = TokenExample(
      as_ids(cut_prompt),
      tuple(as_ids(answer) for answer in cut_answers),
      weight=1.0 if annotations.weight is None else annotations.weight,
      label=0.5 if len(set(scores)) == 1 and len(scores) == 2 else self.label(comparison, len(cut_answers)),
      margin=annotations.margin or 0.0,
      scores=scores,
      scores_have_units=bool(scores) and comparison.scores_have_units,
    )
    key = prompt_key(example, bool(comparison.prompt))
    seen = key in self.prompts
    if seen and self.settings.duplicates == "drop":
      return "duplicate_prompt"
    self.prompts.add(key)
    self.counts["truncated/prompts"] += len(cut_prompt) < len(prompt)
    self.counts["truncated/answers"] += cuts
    self.counts["duplicate_prompts"] += seen
    self.counts["boundary_mismatches"] += ids.mismatch and PROMPT_DIFFERS not in ids.odd
    self.note_odd(where, ids.odd, annotations)
    self.counts["repeated_answers"] += repeated
    self.counts["ties"] += example.label == 0.5
    self.counts["with_margin"] += annotations.margin is not None
    self.counts["with_weight"] += annotations.weight is not None
    self.counts["kept"] += 1
    self.counts["turns"] += self.every_turn
    self.count_ends(example.answers)
    self.examples.append(example)
    self.metadata.append(self.describe(where, comparison, ids, texts))
    return ""

  def keep_turns(self, where: str, read: Sequence[tuple[PreferenceRow | DataError, Tokenised | DataError]]) -> None:
    """Adds the turns of a conversation in as few examples as hold them, or counts why the row is dropped.

    A turn that cannot be used is left out, and read where it stands in the history of a later one.
    """
    turns: list[tuple[PreferenceRow, Tokenised, Turn]] = []
    left: list[DataError] = []
    for comparison, ids in read:
      found = self.turn(comparison, ids)
      if isinstance(found, DataError):
        left.append(found)
      else:
        turns.append(found)
    if not turns:
      self.drop_for(where, left[0])
      return
    joined = join([turn for _, _, turn in turns])
    weight = turns[0][0].annotations.weight
    examples = [
      TokenExample(
        as_ids(group.prompt),
        (as_ids(group.answer),),
        weight=1.0 if weight is None else weight,
        learned=() if group.learned.all() else (group.learned,),
      )
      for group in joined
    ]
    key = prompt_key(examples[0], prompted=True)
    seen = key in self.prompts
    if seen and self.settings.duplicates == "drop":
      self.drop("duplicate_prompt", f"{where}: duplicate prompt", noted=False)
      return
    self.prompts.add(key)
    counts = self.counts
    counts["kept"] += 1
    counts["duplicate_prompts"] += seen
    counts["with_weight"] += weight is not None
    counts["turns"] += len(turns)
    counts["turns_left_out"] += len(left)
    counts["turns_apart"] += len(joined) - 1
    odd: dict[str, str] = {}
    for _, ids, turn in turns:
      counts["truncated/prompts"] += len(turn.prompt) < len(ids.prompt)
      counts["truncated/answers"] += len(turn.answer) < len(ids.answers[0])
      odd = {**ids.odd, **odd}
      self.count_ends([as_ids(turn.answer)])
    counts["boundary_mismatches"] += any(ids.mismatch and PROMPT_DIFFERS not in ids.odd for _, ids, _ in turns)
    self.note_odd(where, odd, turns[0][0].annotations)
    if left:
      self.odd.setdefault("turns_left_out", f"{where}: {left[0]}")
    if len(joined) > 1:
      self.odd.setdefault(
        "turns_apart",
        f"{where}: the template (or a limit) gives a later turn another history than the earlier turns were learned as, so "
        f"its {len(turns)} turns take {len(joined)} examples",
      )
    for group, example in zip(joined, examples, strict=True):
      (first, ids, _), last = turns[group.members[0]], turns[group.members[-1]][0]
      text = _from_turn_to_turn(first, last)
      self.examples.append(example)
      self.metadata.append(self.describe(where, first, ids, [text]) | {"held_out_by": key.hex()})

  def turn(
    self, comparison: PreferenceRow | DataError, ids: Tokenised | DataError
  ) -> tuple[PreferenceRow, Tokenised, Turn] | DataError:
    """A turn within its limits, or why it is left out."""
    if isinstance(comparison, DataError) or isinstance(ids, DataError):
      return comparison if isinstance(comparison, DataError) else ids  # pyright: ignore[reportReturnType]
    if _is_empty(comparison.answers[0]):
      return RowError("empty_answer", "an answer of it says nothing")
    if not ids.prompt:
      return RowError("empty_prompt", "nothing stands before a turn of it")
    fitted = fit(ids.prompt, ids.answers, self.limits)
    if isinstance(fitted, str):
      return RowError(fitted, f"{fitted.replace('_', ' ')}")
    prompt, (answer,) = fitted
    return comparison, ids, Turn(prompt, answer)

  def note_odd(self, where: str, odd: Mapping[str, str], annotations: Annotations) -> None:
    """Counts what is odd about a row that is kept."""
    found = dict(odd)
    if annotations.contradicts:
      found["contradicting_scores"] = "its scores, margin, winner or label say that the second answer is the better one"
    for name, what in found.items():
      self.counts[name] += 1
      self.odd.setdefault(name, f"{where}: {what}")

  def label(self, comparison: PreferenceRow, answers: int) -> float:
    """What the row says of its first answer: see `TokenExample`."""
    if comparison.annotations.tie and answers == 2:
      return 0.5
    return float(comparison.details["label"]) if self.answers is Answers.UNPAIRED and answers == 1 else 1.0

  def count_ends(self, answers: Sequence[np.ndarray]) -> None:
    """Counts answers, and where EOS stands in them."""
    ends, counts = set(self.tokenizer.eos_ids), self.counts
    counts["answers"] += len(answers)
    counts["answers_with_eos"] += sum(bool(ends.intersection(answer.tolist())) for answer in answers)
    counts["eos_inside_answers"] += sum(bool(ends.intersection(answer[:-1].tolist())) for answer in answers)

  def describe(self, where: str, comparison: PreferenceRow, ids: Tokenised, texts: list[Any]) -> dict[str, Any]:
    """The texts behind an example: for looking at it, and for whoever judges answers to its prompt."""
    if comparison.kind == "ids":
      texts = [self.tokenizer.decode(answer) for answer in texts]
    else:
      texts = [text if isinstance(text, str) else shown_message(text) for text in texts]
    return {
      "row": where,
      "number": self.counts["rows"] - 1,
      "prompt": prompt_text(comparison, ids.prompt, self.tokenizer),
      "given": given_prompt(comparison, ids.prompt, self.tokenizer),
      "answers": texts,
      "details": comparison.details,
    }

  def dataset(self, name: str, form: str) -> TokenDataset:
    """All kept examples.

    Raises:
      DataError: there are none; says what became of the rows.
    """
    if not self.examples:
      why = ", ".join(f"{n} {key.removeprefix(DROPPED)}" for key, n in self.counts.items() if n and DROPPED in key)
      what = f"none of its {self.counts['rows']} rows can be used: {why}" if why else "it holds no rows"
      first = self.notes[:1] or [why for _, why in self.dropped[:1]]
      raise DataError("; ".join([f"{name}: {what}", *first, *self.warnings]))
    return TokenDataset(
      self.examples,
      metadata=self.metadata,
      counts=self.counts,
      notes=self.notes,
      dropped=self.dropped,
      warnings=[*self.warnings, *odd_in_words(self.odd, self.counts)],
      origin=f"{form} {self.tokenizer.fingerprint()}",
    )
