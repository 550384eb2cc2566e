"""Prompts to answer: those of a data set, of a file that may hold nothing else, or of a program."""

import codecs
import dataclasses
import gzip
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dpojax.config.schema import DataSettings
from dpojax.data.dataset import open_source, open_template
from dpojax.data.examples import TokenDataset, as_ids
from dpojax.data.formats import FORMATS, Format, PreferenceRow, Row, choose_format, pretokenised
from dpojax.data.formats.common import Message, messages, read_prompt, rest_of, token_ids
from dpojax.data.limits import Limits, cut_prompt
from dpojax.data.row_filter import DROPPED, MOST_NOTES, given_prompt, odd_in_words, prompt_text
from dpojax.data.rows import RowReader, row_groups
from dpojax.data.sources import Source, SourceRow, find_file, memory_rows
from dpojax.data.splits import first_distinct_prompts
from dpojax.data.tokenise import ODDITIES, PROMPT_DIFFERS, Tokenised, tokenise
from dpojax.errors import DataError, RowError
from dpojax.interop.tokenizer import Tokenizer

TEXTS = (".txt", ".txt.gz")  # a prompt a line
COUNTS = (
  "rows",
  "kept",
  "dropped/malformed",
  "dropped/empty_prompt",
  "dropped/prompt_too_long",
  "dropped/duplicate_prompt",
  "duplicate_prompts",
  "truncated/prompts",
  *(name for name in ODDITIES if name != PROMPT_DIFFERS),
)


@dataclasses.dataclass(frozen=True, eq=False)
class PromptRow:
  """A prompt that a policy answers.

  Attributes:
    given: exactly as the data have it, see `row_filter.given_prompt`: text, or messages.
    text: as a person reads it.
    ids: i32[P] what the policy reads: template, generation prompt and BOS included. Never empty.
    where: it was read, for messages.
    number: of its row, from 0.
    details: other columns of the row.
  """

  given: str | list[Message]
  text: str
  ids: np.ndarray
  where: str
  number: int
  details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def columns(self) -> dict[str, Any]:
    """The prompt as columns of a row that is written: `prompt`, and `tools` where it has functions to call."""
    return {"prompt": self.given} | {name: self.details[name] for name in ("tools",) if name in self.details}


class PromptRows(list[PromptRow]):
  """Prompts, and what became of the rows that gave none.

  Attributes:
    counts: rows read, kept, dropped for each reason, and of those kept the ones that an earlier row has, and those that
      were cut. rows = kept + the sum of all dropped/...
    dropped: (number of the row, from 0, and why) of every row left out.
    notes: messages about the first malformed rows.
    warnings: messages about the data as a whole, see `TokenDataset`.
  """

  def __init__(self, rows: Iterable[PromptRow] = ()):
    super().__init__(rows)
    self.counts: dict[str, int] = dict.fromkeys(COUNTS, 0)
    self.dropped: list[tuple[int, str]] = []
    self.notes: list[str] = []
    self.warnings: list[str] = []

  @property
  def summary(self) -> str:
    """How many rows are left out, by reason; empty where none is."""
    return ", ".join(
      f"{n} {key.removeprefix(DROPPED).replace('_', ' ')}" for key, n in self.counts.items() if n and DROPPED in key
    )

  def drop(self, reason: str, why: str) -> None:
    """Counts the row that was counted last as left out."""
    self.counts[f"{DROPPED}{reason}"] += 1
    self.dropped.append((self.counts["rows"] - 1, why))
    if reason == "malformed" and len(self.notes) < MOST_NOTES:
      self.notes.append(why)


def answered_in_words(rows: Sequence[PromptRow]) -> str:
  """`1,000 prompts are answered, among them 12 duplicate prompts`, of which all but the first of equal ones are counted."""
  twice = len(rows) - len({row.ids.tobytes() for row in rows})
  count = f"{len(rows):,} prompt{'s are' if len(rows) != 1 else ' is'} answered"
  return f"{count}, among them {twice:,} duplicate prompt{'s' * (twice > 1)}" if twice else count


def prompts_of(dataset: TokenDataset, wanted: int = 0) -> list[PromptRow]:
  """The first `wanted` different prompts of a data set; 0: all. Their ids are those of its examples."""
  found = []
  for i in first_distinct_prompts(dataset, wanted):
    row, ids = dataset.metadata[i], dataset[i].prompt
    shown = str(row.get("prompt", ""))
    details = row.get("details", {})
    found.append(PromptRow(row.get("given", shown), shown, ids, dataset.where(i), row.get("number", i), details))
  return found


def hold_out_prompts(rows: Sequence[PromptRow], fraction: float, seed: int) -> tuple[list[PromptRow], list[PromptRow]]:
  """(training, held out), the latter with a share `fraction` of the different prompts, at least one where it is above 0.

  Which prompts depends on `seed` and the prompts alone, not on their order; equal ones are on one side.
  """
  ranked = _ranked(rows, seed)
  count = round(fraction * len(ranked))
  taken = set(ranked[: max(count, int(fraction > 0 and len(ranked) > 1))])
  kept = [row for row in rows if row.ids.tobytes() not in taken]
  held_out = {row.ids.tobytes(): row for row in reversed(rows) if row.ids.tobytes() in taken}
  return kept, sorted(held_out.values(), key=lambda row: row.number)


def first_held_out(held_out: Sequence[PromptRow], count: int, seed: int) -> list[PromptRow]:
  """The `count` (0: all) of these prompts that are held out whatever the share is: what stages that drop some rows, and so hold
  out a few prompts more or fewer, hold out too.
  """
  chosen = set(_ranked(held_out, seed)[: count or None])
  return [row for row in held_out if row.ids.tobytes() in chosen]


def _ranked(rows: Sequence[PromptRow], seed: int) -> list[bytes]:
  """The different prompts, in the order in which they are held out."""
  return sorted({row.ids.tobytes() for row in rows}, key=lambda ids: hashlib.sha256(f"{seed} ".encode() + ids).digest())


def read_prompts(
  settings: DataSettings,
  tokenizer: Tokenizer,
  *,
  longest: int = 0,
  left_by: str = "",
  given: Iterable[Mapping[str, Any]] | None = None,
) -> PromptRows:
  """The prompts of `data.path`, or of a split of a hub data set.

  A file may hold rows of any format (`docs/data.md`), of which the prompt is taken; rows with nothing but a `prompt`
  (text or messages), `messages` (an answer at their end is left out) or `prompt_ids`; or, as .txt, a prompt a line. A
  text becomes a user's message where there is a chat template, as in rows of preferences, and is tokenised as their
  prompts are, so that a policy reads here what it read in training.

  Args:
    settings: source, format, template, limits on prompts, `overlong` and `duplicates`.
    tokenizer: text to ids.
    longest: tokens that a prompt may have, beside `data.max_prompt`; 0: any number.
    left_by: the settings that leave so many, for messages.
    given: rows in memory, in the place of what the settings name.

  Returns:
    The prompts in the order of their rows, and what became of every other row.

  Raises:
    DataError: a file, column or template is wrong, or no row holds a prompt that can be used.
    ConfigError: the settings name no source.
  """
  path = settings.path
  if given is not None:
    source = Source("rows", itertools.islice(memory_rows(given), settings.limit or None))
  elif path.lower().endswith(TEXTS):
    source = Source(path, itertools.islice(_lines(path), settings.limit or None))
  else:
    source = open_source(settings, path, settings.split)
  return _read(source.name, source.rows, settings, tokenizer, longest, left_by)


def prompts_given(
  prompts: Sequence[str | list[Message]], settings: DataSettings, tokenizer: Tokenizer, *, name: str = "prompt"
) -> PromptRows:
  """Prompts that a program holds, by the same path as those of a file.

  Raises:
    DataError: one cannot be used; names it by its number.
  """
  rows = (SourceRow(f"{name} {i}", {"prompt": prompt}) for i, prompt in enumerate(prompts))
  found = _read(name, rows, dataclasses.replace(settings, format="prompt", duplicates="keep"), tokenizer, 0)
  if found.dropped:
    raise DataError(found.dropped[0][1])
  return found


def _read(
  name: str,
  rows: Iterator[SourceRow],
  settings: DataSettings,
  tokenizer: Tokenizer,
  longest: int,
  left_by: str = "",
) -> PromptRows:
  limits = dataclasses.replace(Limits.of(settings, 0, tokenizer.bos_id), answer=0, example=0)
  limits = dataclasses.replace(limits, prompt=min(filter(None, (limits.prompt, longest)), default=0))
  if limits.prompt != longest:
    left_by = "data.max_prompt"
  found = PromptRows()
  template = open_template(settings, tokenizer)
  keep = _Keep(found, tokenizer, limits, left_by=left_by, drop_duplicates=settings.duplicates == "drop")
  reader = RowReader(settings, _choose, limits, chat=template is not None, prompts=True)
  try:
    for some in row_groups(rows):
      reader.begin(some)
      parsed = [reader.read(row) for row in some]
      good = [(row.where, p) for row, p in zip(some, parsed, strict=True) if isinstance(p, PreferenceRow)]
      places = [where for where, _ in good]
      done = iter(
        tokenise([p for _, p in good], places, tokenizer, template, after_eos=settings.after_eos, complete=True)
      )
      for row, p in zip(some, parsed, strict=True):
        found.counts["rows"] += 1
        ids = next(done) if isinstance(p, PreferenceRow) else p
        if isinstance(p, DataError) or isinstance(ids, DataError):
          error = p if isinstance(p, DataError) else ids
          found.drop(error.reason if isinstance(error, RowError) else "malformed", f"{row.where}: {error}")
        else:
          keep(row, p, ids)
  finally:
    if template is not None:
      template.close()
  found.warnings = [*reader.warnings(), *odd_in_words(keep.odd, found.counts)]
  if not found:
    count = found.counts["rows"]
    what = f"none of its {count} rows gives a prompt: {found.summary}" if count else "it holds no rows"
    raise DataError("; ".join([f"{name}: {what}", *[why for _, why in found.dropped[:1]]]))
  return found


class _Keep:
  """Adds prompts to `found`, or counts why not."""

  def __init__(self, found: PromptRows, tokenizer: Tokenizer, limits: Limits, *, left_by: str, drop_duplicates: bool):
    self.found, self.tokenizer, self.limits = found, tokenizer, limits
    self.left_by, self.drop_duplicates = left_by, drop_duplicates
    self.seen: set[bytes] = set()
    self.odd: dict[str, str] = {}

  def __call__(self, row: SourceRow, read: PreferenceRow, ids: Tokenised) -> None:
    found, limits, prompt = self.found, self.limits, ids.prompt
    if not prompt:
      found.drop("empty_prompt", f"{row.where}: its prompt is empty, and the tokenizer puts no BOS before it")
      return
    if limits.prompt and len(prompt) > limits.prompt:
      if limits.overlong == "drop":
        which = f", {self.left_by}" if self.left_by else ""
        found.drop(
          "prompt_too_long", f"{row.where}: its prompt has {len(prompt)} tokens, more than {limits.prompt}{which}"
        )
        return
      prompt = cut_prompt(prompt, limits.prompt, limits)
    kept = as_ids(prompt)
    if kept.tobytes() in self.seen:
      if self.drop_duplicates:
        found.drop("duplicate_prompt", f"{row.where}: an earlier row has the same prompt")
        return
      found.counts["duplicate_prompts"] += 1
    self.seen.add(kept.tobytes())
    for name, what in ids.odd.items():
      found.counts[name] += 1
      self.odd.setdefault(name, f"{row.where}: {what}")
    found.counts["truncated/prompts"] += len(prompt) < len(ids.prompt)
    found.counts["kept"] += 1
    given, shown = given_prompt(read, ids.prompt, self.tokenizer), prompt_text(read, ids.prompt, self.tokenizer)
    found.append(PromptRow(given, shown, kept, row.where, found.counts["rows"] - 1, read.details))


def _lines(path: str) -> Iterator[SourceRow]:
  """A row {"prompt": line} for each line of a UTF-8 text file that is not empty."""
  file = find_file(path)
  with (gzip.open if path.lower().endswith(".gz") else open)(file, "rb") as stream:
    try:
      for number, line in enumerate(stream, 1):
        if number == 1:
          line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
          try:
            yield SourceRow(f"{path}:{number}", {"prompt": line.decode("utf-8").rstrip("\r\n")})
          except UnicodeDecodeError as error:
            yield SourceRow(f"{path}:{number}", {}, f"not UTF-8: {error}")
    except (gzip.BadGzipFile, EOFError, OSError) as error:
      raise DataError(f"{path}: cannot be read ({error}); give a UTF-8 text file") from error


def _choose(setting: str, row: Row, where: str) -> Format:
  """How prompts are read from rows like this one, the first.

  Raises:
    DataError: it looks like nothing that holds a prompt.
    ConfigError: `setting` names no format.
  """
  if setting in ALONE:
    return ALONE[setting]
  if setting == "auto":
    named = next((form.name for form in FORMATS.values() if form.detects(row)), "")
    if named in ALONE:
      return ALONE[named]
    if named in ("", "text") and "prompt" in row:
      return ALONE["prompt"]
    if not named:
      found = ", ".join(row) or "none"
      raise DataError(
        f"{where}: columns {found} hold no prompt; give a column prompt (text or messages), messages or prompt_ids, "
        "or rows of a format of docs/data.md; data.columns=prompt=NAME says which column is the prompt"
      )
    setting = named
  form = choose_format(setting, row, where)
  if form.name == "text":
    raise DataError(f"{where}: format 'text' holds whole texts and no prompts; name the column 'prompt'")
  return form


def _of_prompt(row: Row, chat: bool) -> PreferenceRow:
  kind, prompt = read_prompt(row, chat)
  return PreferenceRow(kind, prompt, (), rest_of(row, "prompt"))


def _of_messages(row: Row, chat: bool) -> PreferenceRow:
  conversation = messages(row, "messages")
  if conversation[-1]["role"] == "assistant" and len(conversation) > 1:
    conversation = conversation[:-1]
  return PreferenceRow("chat", conversation, (), rest_of(row, "messages"))


def _of_ids(row: Row, chat: bool) -> PreferenceRow:
  return PreferenceRow("ids", token_ids(row, "prompt_ids"), (), rest_of(row, "prompt_ids", *pretokenised.ANSWERS))


# What a row may be that holds a prompt and nothing else, by the name of `data.format`.
ALONE = {
  name: Format(name, column, (column,), lambda row: False, parse)
  for name, column, parse in (
    ("prompt", "prompt", _of_prompt),
    ("chat", "messages", _of_messages),
    (pretokenised.FORMAT.name, "prompt_ids", _of_ids),
  )
}
