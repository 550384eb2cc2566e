"""From a data set's settings to tokenised examples, every row of it accounted for."""

import functools
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dpojax.config.schema import DataSettings
from dpojax.data.examples import TokenDataset, as_ids
from dpojax.data.formats import Format, PreferenceRow, Row, choose_format
from dpojax.data.rankings import expand
from dpojax.data.row_filter import RowFilter, prompt_key
from dpojax.data.rows import CHARACTERS_AT_ONCE, RowReader, characters, row_groups
from dpojax.data.sources import Source, SourceRow, file_source, hub_source, memory_rows
from dpojax.data.templates import ChatTemplate, template_source
from dpojax.data.token_cache import TokenCache
from dpojax.data.tokenise import tokenise
from dpojax.errors import ConfigError, DataError
from dpojax.interop.tokenizer import Tokenizer
from dpojax.types import Answers


def load_dataset(
  settings: DataSettings, tokenizer: Tokenizer, *, answers: Answers, row_length: int, cache: TokenCache | None = None
) -> tuple[TokenDataset, TokenDataset]:
  """The training and the held-out examples that the settings name; no prompt is on both sides.

  Held out are the rows of `eval_path` or `eval_split` where given, and training rows with one of their
  prompts are dropped; else a share `eval_fraction` of the prompts, chosen by `seed`.

  Args:
    settings: source, format, template, limits and policies.
    tokenizer: text to ids.
    answers: what an example is to hold. PAIR, TRIPLE, RANKING: two or more answers, of which the loss counts how many;
      ONE: the best answer only; UNPAIRED: pairs, or answers with a label; ANY: all answers, identical ones too.
    row_length: tokens of a packed row, which the prompt and all answers of an example must share.
    cache: of what earlier calls, in other processes too, made of the same rows by the same settings.

  Raises:
    DataError: a file, data set, column or template is wrong, or no row is left.
    ConfigError: a setting is wrong.
  """

  def build(path: str, split: str) -> TokenDataset:
    source = open_source(settings, path, split)
    make = functools.partial(
      _build, source.rows, source.name, settings, tokenizer, answers=answers, row_length=row_length
    )
    if cache is None:
      return _paired(make(), settings, answers)
    made = cache.dataset(source, settings, tokenizer, answers=answers, row_length=row_length, make=make)
    return _paired(made, settings, answers)

  train = build(settings.path, settings.split)
  if not settings.eval_path and not settings.eval_split:
    return hold_out(train, settings.eval_fraction, settings.seed)
  held_out = build(settings.eval_path, settings.eval_split)
  taken = set(prompt_keys(held_out))
  kept = [i for i, prompt in enumerate(prompt_keys(train)) if prompt not in taken]
  counts = dict(train.counts)
  left = {train.metadata[i].get("number", i) for i in kept}  # a row may have made several examples
  counts["kept"] = len(left)
  counts["dropped/held_out_prompt"] = train.counts["kept"] - len(left)
  return train.subset(kept, counts), held_out


def dataset_from_rows(
  rows: Iterable[Mapping[str, Any]], settings: DataSettings, tokenizer: Tokenizer, *, answers: Answers, row_length: int
) -> TokenDataset:
  """Examples from rows in memory, by the same path as rows of a file. See `load_dataset`."""
  made = _build(memory_rows(rows), "rows", settings, tokenizer, answers=answers, row_length=row_length)
  return _paired(made, settings, answers)


def _paired(dataset: TokenDataset, settings: DataSettings, answers: Answers) -> TokenDataset:
  """Rankings as pairs, where the loss reads pairs and `data.pairs` says which."""
  return expand(dataset, settings.pairs) if answers is Answers.PAIR else dataset


def hold_out(dataset: TokenDataset, fraction: float, seed: int) -> tuple[TokenDataset, TokenDataset]:
  """Divides a data set by prompt: (training, held out), the latter with a share `fraction` of the prompts.

  Which prompts depends on `seed` and the prompts alone, not on the order of rows.
  """
  prompts = prompt_keys(dataset)
  ranked = sorted(set(prompts), key=lambda prompt: hashlib.sha256(f"{seed} ".encode() + prompt).digest())
  count = round(fraction * len(ranked))
  if fraction > 0 and len(ranked) > 1:
    count = max(count, 1)
  taken = set(ranked[:count])
  sides: tuple[list[int], list[int]] = ([], [])
  for i, prompt in enumerate(prompts):
    sides[prompt in taken].append(i)
  return dataset.subset(sides[0]), dataset.subset(sides[1])


def prompt_keys(dataset: TokenDataset) -> list[bytes]:
  """What makes the prompt of each example the same as another's."""
  return [
    bytes.fromhex(metadata["held_out_by"])
    if "held_out_by" in metadata
    else prompt_key(dataset[i], bool(metadata.get("prompt", "prompt")))
    for i, metadata in enumerate(dataset.metadata)
  ]


def encode_prompts(prompts: Sequence[str], settings: DataSettings, tokenizer: Tokenizer) -> list[np.ndarray]:
  """i32[P] ids of each prompt, as rows of the explicit format would begin: for sampling.

  Raises:
    DataError: a prompt is empty and the tokenizer begins with no BOS; or as `load_dataset`.
  """
  template = open_template(settings, tokenizer)
  try:
    if template is None:
      start = [tokenizer.bos_id] if tokenizer.adds_bos else []
      encoded = [ids if ids[:1] == start else [*start, *ids] for ids in tokenizer.encode_batch(prompts)]
    else:
      chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
      places = [f"prompt {i}" for i in range(len(prompts))]
      texts = template.render(chats, places, add_generation_prompt=True)
      for place, rendered in zip(places, texts, strict=True):
        if isinstance(rendered, DataError):
          raise DataError(f"{place}: {rendered}")
      encoded = tokenizer.encode_batch([str(rendered) for rendered in texts])
  finally:
    if template is not None:
      template.close()
  for i, ids in enumerate(encoded):
    if not ids:
      raise DataError(f"prompt {i} is empty, and the tokenizer puts no BOS before it; write some text")
  return [as_ids(ids) for ids in encoded]


def open_source(settings: DataSettings, path: str, split: str) -> Source:
  """The rows of a file or of a split of the hub data set.

  Raises:
    ConfigError: the settings name neither.
    DataError: the data set cannot be fetched.
  """
  if path:
    return file_source(path, settings.limit)
  if settings.source == "world":
    raise ConfigError("data.source=world: an environment's rows are made by the run; pass them to dataset_from_rows")
  if settings.source == "file" and not settings.eval_split:
    raise ConfigError("data.source=file needs data.path, a JSONL, JSON, CSV or Parquet file")
  if not settings.name:
    raise ConfigError("data.name is empty; name a data set of the hub, or give a local file as data.path")
  return hub_source(
    settings.name, subset=settings.subset, split=split, revision=settings.revision, limit=settings.limit
  )


def open_template(settings: DataSettings, tokenizer: Tokenizer) -> ChatTemplate | None:
  """The template that `data.template` means, to be closed; None where texts are used as they stand."""
  source = template_source(settings.template, tokenizer)
  return None if source is None else ChatTemplate(source, tokenizer)


def _build(
  rows: Iterator[SourceRow],
  name: str,
  settings: DataSettings,
  tokenizer: Tokenizer,
  *,
  answers: Answers,
  row_length: int,
) -> TokenDataset:
  """Reads, parses, tokenises and filters all rows."""
  row_filter = RowFilter(settings, tokenizer, answers, row_length)
  template = open_template(settings, tokenizer)
  choose = functools.partial(_choose, answers=answers)
  chat, annotated = template is not None, answers is not Answers.ANY
  reader = RowReader(settings, choose, row_filter.limits, chat=chat, annotated=annotated)
  every_turn = answers is Answers.ONE and settings.train_turns == "all"
  tokenised = functools.partial(
    tokenise, tokenizer=tokenizer, template=template, after_eos=settings.after_eos, complete=True
  )
  try:
    for some in row_groups(rows):
      reader.begin(some)
      row_filter.every_turn = every_turn and reader.form is not None and reader.form.turns is not None
      parsed = [reader.read_turns(row) if every_turn else _alone(reader.read(row)) for row in some]
      for part in _parts(list(zip(some, parsed, strict=True))):
        read = [(row.where, one) for row, p in part for one in p if isinstance(one, PreferenceRow)]
        done = iter(tokenised([one for _, one in read], [where for where, _ in read]))
        for row, p in part:
          row_filter.take(row.where, [(one, next(done) if isinstance(one, PreferenceRow) else one) for one in p])
  finally:
    if template is not None:
      template.close()
  row_filter.warnings += reader.warnings()
  return row_filter.dataset(name, reader.form.name if reader.form else "")


# Columns that say how good a single answer is.
GRADES = re.compile(
  r"(.*_)?(scores?|ratings?|rewards?|grade|stars|labels?|thumbs?(_?(up|down))?|likes?|liked|vote|feedback|desirable|preferred)"
)
Read = Sequence[PreferenceRow | DataError]  # what a row holds: several turns, or one comparison, or why nothing


def _alone(read: PreferenceRow | DataError) -> Read:
  return [read]


def _parts(rows: list[tuple[SourceRow, Read]]) -> Iterator[list[tuple[SourceRow, Read]]]:
  """The rows in parts of a few million characters, the history of every turn counted anew; one row at least."""
  part: list[tuple[SourceRow, Read]] = []
  held = 0
  for row, read in rows:
    size = sum(characters(one) for one in read) if len(read) > 1 else 0  # `row_groups` has seen to the others
    if part and held + size > CHARACTERS_AT_ONCE:
      yield part
      part, held = [], 0
    part.append((row, read))
    held += size
  if part:
    yield part


def _choose(setting: str, row: Row, where: str, *, answers: Answers) -> Format:
  """The format of rows like this one, which must hold what `answers` says."""
  form = choose_format(setting, row, where)
  if answers.compared and form.answers in (Answers.ONE, Answers.UNPAIRED):
    grade = next((name for name in row if GRADES.fullmatch(name.lower())), "")
    if form.answers is Answers.UNPAIRED:
      instead = "loss.name=kto or loss.name=bco, which learn from labels"
    elif grade:
      instead = (
        f"loss.name=kto or loss.name=bco, which learn from single answers with a column 'label' (true or false): make one of "
        f"{grade!r} (data.columns=label={grade} where it holds true and false, or 1 and 0)"
      )
    else:
      instead = "recipe=sft"
    raise DataError(
      f"{where}: format {form.name!r} ({form.wants}) has one answer a row, but preferences need two; give pairs, or set "
      f"{instead}"
    )
  if (answers.compared or answers is Answers.UNPAIRED) and form.answers is Answers.ANY:
    raise DataError(
      f"{where}: format {form.name!r} ({form.wants}) has several answers of equal standing, which is no ranking to "
      "learn from; `dpojax score` scores it, and recipe=pairs makes pairs of a policy's answers"
    )
  return form
