"""`dpojax score`: what a model says of the answers in a file, log-probs or rewards, as JSONL."""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dpojax.cli.arguments import add_model, file_path
from dpojax.cli.options import Parser
from dpojax.cli.output import check_not_read, not_finite, output_path
from dpojax.cli.progress import Progress
from dpojax.cli.rows import add_rows, data_settings, say_warnings
from dpojax.errors import ConfigError
from dpojax.files import finite, write_json_lines

if TYPE_CHECKING:
  from dpojax.rewards.terms import RewardSpec
  from dpojax.training.model_files import LoadedModel

DESCRIPTION = """What a model says of the answers in a file: log-probs by a language model, rewards by a reward model, or any
rewards by --rewards. One JSON object a row, in row order.

                log-probs                                           rewards
  a pair        {"row": 0, "chosen_logp": -61.2, "rejected_logp":   {"row": 0, "chosen_reward": 1.3,
                -70.9, "chosen_tokens": 30, "rejected_tokens": 33}  "rejected_reward": -0.2}
  K answers     {"row": 0, "logps": [-61.2, ...], "tokens": [...]}  {"row": 0, "rewards": [1.3, ...]}
  one answer    {"row": 0, "logp": -61.2, "tokens": 30}             {"row": 0, "reward": 1.3}
  left out      {"row": 0, "error": "pairs.jsonl:1: empty answer"}
  not finite    {"row": 0, "logp": null, "tokens": 30}, said and counted; the command ends with 1

Log-probs are in nats, summed over the answer's tokens with its EOS. --data may be what `dpojax sample --out` wrote:
its samples are K answers a row, and one that was cut at --max-tokens has no EOS. Rewards are raw: not normalised. Those of several
heads are their means, with "heads": [[1.1, ...], ...], a list a head, beside them. Rows are counted from 0.

--rewards=SPEC takes what monitor.rewards takes (docs/rewards.md), such as 'model:runs/reward?less=1, length'; of several
rewards each number becomes an object, {"row": 0, "reward": {"reward": 1.3, "length": 30.0}}. Rules need no --model; with
one, its tokens are what length counts."""

Line = dict[str, Any]
# Options of limits and packing, which rewards do without.
WHOLE = ("rows", "row_length", "after_eos", "max_prompt", "max_answer", "max_example", "overlong")


def main(arguments: list[str]) -> int:
  """0 when every row is in the output, scored or with its error; 1 when a figure is not finite."""
  parser = _parser()
  options = parser.parse_args(arguments)
  if options.model is None and options.rewards is None:
    raise ConfigError("there is nothing to score with; give --model=PATH, or --rewards=SPEC; see dpojax score --help")
  check_not_read(options.out, "--out", options.data, "--data")
  check_not_read(options.out, "--out", options.model, "--model")
  specs: "Sequence[RewardSpec]" = ()
  if options.rewards is not None:
    from dpojax.rewards.spec import read_rewards

    for name in WHOLE:
      if getattr(options, name) != parser.get_default(name):
        option = f"--{name.replace('_', '-')}"
        raise ConfigError(f"{option} has no meaning with --rewards, which scores whole rows; it belongs to --model")
    specs = read_rewards(options.rewards, "--rewards")
    if not specs:
      raise ConfigError(f"--rewards={options.rewards} names none; give one of docs/rewards.md, such as model:PATH")

  from dpojax.parallel import check_one_process

  check_one_process()
  with output_path(options.out, "--out") as part:
    from dpojax.cli import compilation_cache

    compilation_cache.begin()
    lines, dropped = _by_rewards(options, specs) if specs else _by_model(options)
    lines += [{"row": number, "error": why} for number, why in dropped]
    found, missing = finite(sorted(lines, key=lambda line: line["row"]))
    write_json_lines(part, found)
  failed = f", not scored: {len(dropped)} (their errors are in the file)" if dropped else ""
  print(f"{options.out}: rows scored: {len(lines) - len(dropped)}{failed}", file=sys.stderr)
  if missing:
    print(f"dpojax: warning: {not_finite(missing, options.out)}", file=sys.stderr)
  return 1 if missing else 0


def _parser() -> Parser:
  parser = Parser("dpojax score", DESCRIPTION)
  add_model(parser, required=False)
  parser.add_argument("--rewards", metavar="SPEC", help="what scores the answers, in the place of a model")
  add_rows(parser)
  parser.add_argument(
    "--out", required=True, metavar="FILE", type=file_path, help="written when all is done, or not at all"
  )
  return parser


def _by_model(options: argparse.Namespace) -> tuple[list[Line], Sequence[tuple[int, str]]]:
  """(lines of the rows that a model scored, number and reason of the others)."""
  from dpojax.data.dataset import load_dataset
  from dpojax.models.reward_model import RewardModel
  from dpojax.scoring import reward_scores, score_answers
  from dpojax.training.model_files import load_model
  from dpojax.types import Answers

  model, params, tokenizer = load_model(options.model, precision=options.precision)
  positions = model.config.max_positions
  settings = data_settings(options)
  settings = dataclasses.replace(settings, max_example=min(settings.max_example or positions, positions))
  dataset, _ = load_dataset(settings, tokenizer, answers=Answers.ANY, row_length=options.row_length)
  dataset.check_vocabulary(model.config.vocab_size, tokenizer)
  say_warnings(dataset.warnings)
  progress = Progress(len(dataset))
  packing: dict[str, Any] = {"rows": options.rows, "row_length": options.row_length, "progress": progress.show}
  numbers = [metadata["number"] for metadata in dataset.metadata]
  if isinstance(model, RewardModel):
    scores = reward_scores(model, params, dataset, **packing)
    lines = [
      {"row": number}
      | _answers("reward", heads.mean(axis=0).tolist(), dataset.num_answers)
      | ({"heads": heads.tolist()} if model.heads > 1 else {})
      for number, heads in zip(numbers, scores, strict=True)
    ]
  else:
    scores = score_answers(model, params, dataset, **packing)
    lines = [
      {"row": number}
      | _answers("logp", score.logps.tolist(), dataset.num_answers)
      | _answers("tokens", score.tokens.tolist(), dataset.num_answers)
      for number, score in zip(numbers, scores, strict=True)
    ]
  progress.close()
  return lines, dataset.dropped


def _answers(what: str, values: list[Any], most: int) -> Line:
  """Values of a row's answers under their names; `most`: the most answers that a row of the file has."""
  if most == 2 and len(values) == 2:
    return {f"{side}_{what}": value for side, value in zip(("chosen", "rejected"), values, strict=True)}
  if most == 1:
    return {what: values[0]}
  return {what if what == "tokens" else f"{what}s": values}


def _by_rewards(
  options: argparse.Namespace, specs: "Sequence[RewardSpec]"
) -> tuple[list[Line], Sequence[tuple[int, str]]]:
  """(lines of the rows that the rewards scored, number and reason of the others)."""
  from dpojax.data.answers import read_answers
  from dpojax.rewards.build import build
  from dpojax.rewards.reward import PromptedAnswer
  from dpojax.rewards.scores import scored
  from dpojax.training.run_reference import compared_with

  load = _loader(options)
  paths = [path for spec in specs for path in spec.paths]
  first = options.model or next(iter(paths), None)  # whose template says how questions are read
  tokenizer = load(first).tokenizer if first else None

  def compare(path: str, reference: str, beta: float | None):
    return compared_with(path, reference, beta, precision=options.precision)

  rewards = [build(spec, load=load, compare=compare, tokenizer=tokenizer) for spec in specs]
  read = read_answers(data_settings(options), tokenizer)
  say_warnings(read.warnings)
  rows = read.rows
  answers = [
    PromptedAnswer(row.given, text, row.prompt_ids, ids, finished=ended, details=row.details)
    for row in rows
    for text, ids, ended in zip(row.answers, row.answers_ids or [None] * len(row.answers), row.finished, strict=True)
  ]
  by_name = {reward.name: scored(reward, answers).tolist() for reward in rewards}
  values: Iterator[Any] = (
    iter(next(iter(by_name.values())))
    if len(by_name) == 1
    else (dict(zip(by_name, each, strict=True)) for each in zip(*by_name.values(), strict=True))
  )
  most = max(len(row.answers) for row in rows)
  lines = [{"row": row.number} | _answers("reward", [next(values) for _ in row.answers], most) for row in rows]
  return lines, read.dropped


def _loader(options: argparse.Namespace) -> "Callable[[str], LoadedModel]":
  """Reads each model once, with the chat template that --template means."""
  from dpojax.config.keys import is_stage
  from dpojax.recipes.inputs import with_template
  from dpojax.training.model_files import load

  known: "dict[str, LoadedModel]" = {}

  def read(path: str) -> "LoadedModel":
    if is_stage(path):
      raise ConfigError(f"--rewards: {path} names a stage of an experiment's config; give the path of its folder")
    if path not in known:
      loaded = load(path, precision=options.precision)
      known[path] = dataclasses.replace(loaded, tokenizer=with_template(loaded.tokenizer, options.template))
    return known[path]

  return read
