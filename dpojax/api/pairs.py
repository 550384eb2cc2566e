"""Rows of preferences as a program gives them: a file, a hub data set or a list of dicts, and how they are read."""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from dpojax.config.keys import convert, fields_by_key, suggestion
from dpojax.config.schema import BatchSettings, DataSettings
from dpojax.data.dataset import dataset_from_rows, hold_out, load_dataset
from dpojax.data.examples import TokenDataset
from dpojax.data.splits import Splits
from dpojax.data.token_cache import TokenCache
from dpojax.errors import ConfigError
from dpojax.interop import hub
from dpojax.interop.tokenizer import Tokenizer
from dpojax.training.model_files import LoadedModel
from dpojax.types import Answers


def as_rows(data: Any) -> list[Mapping[str, Any]]:
  """Rows of a list, a generator, a data set of `datasets` or a data frame; ConfigError of anything else."""
  if hasattr(data, "to_dict") and hasattr(data, "iloc"):  # iterating a data frame gives its columns' names
    return data.to_dict(orient="records")
  if isinstance(data, Mapping):
    raise ConfigError(
      f"data: wants rows, a list of dicts, got one {type(data).__name__} of {', '.join(map(repr, list(data)[:8]))}; of several "
      "splits or of columns choose or make a list"
    )
  if isinstance(data, bytes) or not hasattr(data, "__iter__"):
    raise ConfigError(
      f"data: wants rows, a list of dicts, or a path, got {'None' if data is None else type(data).__name__}"
    )
  return list(data)


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
  """Rows, and how they are read; tokenised when somebody asks, as the loss that asks needs them.

  Attributes:
    settings: source, format, columns, limits, what is held out; see `config.schema.DataSettings`.
    tokenizer: text to ids, with its chat template.
    rows: in memory, in the place of what `settings` name; None: these.
    row_length: tokens that the prompt and all answers of an example may have together.
  """

  settings: DataSettings
  tokenizer: Tokenizer
  rows: Sequence[Mapping[str, Any]] | None = None
  row_length: int = BatchSettings().row_length

  def __repr__(self) -> str:
    # Of a dataclass it would be every row.
    read = self.settings.name or self.settings.path if self.rows is None else f"{len(self.rows):,} rows"
    split = self.__dict__.get("splits")
    parts = f", {len(split.train):,} for training, {len(split.held_out):,} held out" if split else ", not tokenised yet"
    return f"Pairs({read}{parts})"

  @property
  def train(self) -> TokenDataset:
    """Training examples, tokenised."""
    return self.splits.train

  @property
  def held_out(self) -> TokenDataset:
    """Held-out examples, tokenised: a share `eval_fraction` of the prompts, or those of `eval_path`."""
    return self.splits.held_out

  @functools.cached_property
  def splits(self) -> Splits:
    """Both parts, as losses of pairs read them.

    Raises:
      DataError: a file, row or column is wrong; names it.
    """
    return self._read(self.settings, Answers.PAIR)

  def dataset(self, answers: Answers) -> TokenDataset:
    """All rows, nothing held out, with the answers that are asked for; errors as `splits`."""
    whole = dataclasses.replace(self.settings, eval_fraction=0.0, eval_path="", eval_split="")
    return self._read(whole, answers).train

  def _read(self, settings: DataSettings, answers: Answers) -> Splits:
    options: dict[str, Any] = dict(answers=answers, row_length=self.row_length)
    if self.rows is None:
      return Splits(*load_dataset(settings, self.tokenizer, cache=TokenCache.from_environment(), **options))
    dataset = dataset_from_rows(self.rows, settings, self.tokenizer, **options)
    return Splits(*hold_out(dataset, settings.eval_fraction, settings.seed))


def read_pairs(
  source: str | os.PathLike[str] | Sequence[Mapping[str, Any]],
  tokenizer: Tokenizer | LoadedModel,
  *,
  row_length: int = BatchSettings().row_length,
  **settings: Any,
) -> Pairs:
  """Preferences in any format of docs/data.md: pairs, rankings, single labelled answers, conversations, token ids.

  >>> from dpojax.interop.tokenizer import Tokenizer
  >>> rows = [{"prompt": "how", "chosen": "so", "rejected": "not"}, {"prompt": "why", "chosen": "so", "rejected": "not"}]
  >>> pairs = read_pairs(rows, Tokenizer.from_words("how why so not".split(), eos="<eos>"), eval_fraction=0.5)
  >>> len(pairs.train), len(pairs.held_out)
  (1, 1)

  Args:
    source: a JSONL, JSON, CSV or Parquet file, .gz allowed; "hub:NAME[@REVISION]"; or rows.
    tokenizer: of the model, or the model.
    row_length: tokens that the prompt and all answers of an example may have together.
    settings: of section `data`, such as eval_path, eval_fraction, columns, split, limit, overlong.

  Raises:
    ConfigError: no such setting, or a wrong value; says what would be right.
  """
  if isinstance(tokenizer, LoadedModel):
    tokenizer = tokenizer.tokenizer
  given: dict[str, Any] = dict(settings)
  rows = None
  if isinstance(source, str | os.PathLike):
    text = os.fspath(source)
    if hub.is_hub(text):
      name, _, revision = text.removeprefix(hub.HUB).partition("@")
      given |= {"source": "hub", "name": name, "revision": revision}
    else:
      given |= {"source": "file", "path": text}
  else:
    rows = as_rows(source)
    given |= {"source": "file"}
  known = [key.partition(".")[2] for key in fields_by_key() if key.startswith("data.")]
  for name, value in given.items():
    if name not in known:
      raise ConfigError(
        f"read_pairs: there is no setting {name!r}{suggestion(name, known)}; there are {', '.join(known)}"
      )
    given[name] = convert(f"data.{name}", value)
  return Pairs(DataSettings(**given), tokenizer, rows, row_length)
