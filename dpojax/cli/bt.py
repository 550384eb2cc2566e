"""`dpojax bt`: a leaderboard from a file of games."""

import contextlib
import math
import pathlib
import re
import shlex
import shutil
import sys
import unicodedata
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dpojax.cli.arguments import file_path, in_range
from dpojax.cli.board import Read, everything, kind_of, summary, write_csv
from dpojax.cli.options import Parser
from dpojax.cli.output import check_not_read, not_finite, output_path
from dpojax.cli.progress import Line
from dpojax.errors import ConfigError, DataError
from dpojax.files import write_json

if TYPE_CHECKING:
  from dpojax.bradley_terry import BradleyTerryFit, Normal, Pseudo

LMARENA = ("model_a", "model_b", "winner")
OUT, PLOT = (".json", ".csv"), (".png", ".svg", ".pdf")

DESCRIPTION = """Bradley-Terry strengths of items compared in pairs: teams, players, language models.

  dpojax bt games.csv --a=home --b=away --outcome=result --map H=a D=tie A=b --ties=davidson --home
  dpojax bt votes.parquet --ties=half --covariate=tokens_a,tokens_b --cluster=user --out=board.json --plot=board.png
  dpojax bt matches.jsonl.gz --winner=winner --loser=loser --prior=pseudo:1

Files of LMArena (model_a, model_b, winner) need no columns named. A file is counted in blocks and may be larger than
memory. docs/bradley_terry.md says what each figure is."""


def main(arguments: list[str]) -> int:
  """0 when the leaderboard is printed and written, 1 when the fit did not converge or a figure of it is not finite."""
  from dpojax import bradley_terry

  options = _options(arguments)
  prior = _prior(options.prior)
  tables = _tables_beside(options.out)
  for option, path in (("--out", options.out), ("--plot", options.plot), *(("--out", str(path)) for path, _ in tables)):
    check_not_read(path, option, options.file, "dpojax bt")
  with _written(options.out, "--out", OUT) as out, _written(options.plot, "--plot", PLOT) as plot:
    data, read = _read(options)
    fit, unconverged = _fit(options, data, prior)
    kind, resampled = kind_of(options), None
    if options.bootstrap is not None:
      unit = "comparison" if options.cluster is None else "cluster"
      resampled = bradley_terry.bootstrap(fit, options.bootstrap, options.seed or 0, unit)
    with _errors(options.file):
      board = bradley_terry.leaderboard(
        fit, options.level, options.scale, options.base, options.offset, kind, resampled
      )
      suggestions = bradley_terry.suggest(fit, options.suggest) if options.suggest else []
    parameters = bradley_terry.parameter_table(fit, kind, options.level, resampled)
    failed = resampled.failed if resampled else 0
    result, missing = everything(options, fit, board, parameters, suggestions, failed, read)
    if out is not None and out.suffix == ".json":
      write_json(out, result)
    elif out is not None:
      write_csv(out, result["items"])
    for path, name in tables:
      if result[name]:
        with _written(str(path), "--out", OUT) as part:
          assert part is not None
          write_csv(part, result[name])
    if plot is not None:
      from dpojax.bradley_terry.plots import plot_board

      plot_board(fit, board, plot)
  width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0  # a file or a pipe gets whole names
  print("\n".join([board.text(width), *summary(options, fit, result, width)]))
  for path in (options.out, *(path for path, name in tables if result[name]), options.plot):
    if path is not None:
      print(f"written: {path}", file=sys.stderr)
  for group in read.similar:
    print(f"dpojax: warning: {_similar(group)}", file=sys.stderr)
  for words in _of_one_side(options):
    print(f"dpojax: warning: {words}", file=sys.stderr)
  if unconverged:
    print(f"dpojax: warning: {unconverged}", file=sys.stderr)
  if missing:
    print(f"dpojax: warning: {not_finite(missing, options.out)}", file=sys.stderr)
  return 1 if unconverged or missing else 0


def _parser() -> Parser:
  parser = Parser("dpojax bt", DESCRIPTION)
  parser.add_argument(
    "file", metavar="FILE", type=file_path, help="CSV, TSV, JSONL or JSON (.gz, .bz2, .zst too), or Parquet"
  )
  columns = parser.add_argument_group("columns")
  columns.add_argument("--a", metavar="COL", help="one item, the one at home")
  columns.add_argument("--b", metavar="COL", help="the other item")
  columns.add_argument("--outcome", metavar="COL", help="who won")
  columns.add_argument(
    "--map",
    metavar="LABEL=a|b|tie|both_bad|drop",
    action="extend",
    nargs="+",
    default=[],
    help="what the outcomes mean, all of them; without it the usual labels (a, b, tie, model_a, 1, 0, 0.5, win, ...)",
  )
  columns.add_argument(
    "--both-bad",
    choices=("tie", "drop", "error"),
    default="tie",
    help="what LMArena's 'tie (bothbad)' is: a tie, left out, or an error (tie)",
  )
  columns.add_argument("--winner", metavar="COL", help="instead of --a, --b and --outcome")
  columns.add_argument("--loser", metavar="COL", help="beside --winner")
  columns.add_argument("--tie", metavar="COL", help="beside --winner: true where nobody won")
  columns.add_argument("--weight", metavar="COL", help="how much each row counts")
  columns.add_argument("--neutral", metavar="COL", help="with --home: true where nobody was at home")
  columns.add_argument(
    "--covariate",
    metavar="COL[,COL]",
    action="append",
    default=[],
    help="what favours the item of --a, a column or the difference of two; standardised, and may be repeated",
  )
  columns.add_argument("--cluster", metavar="COL", help="who belongs together, a user or a prompt: errors know of it")
  model = parser.add_argument_group("model")
  model.add_argument("--ties", choices=("error", "half", "davidson", "rao_kupper"), default="error", help="(error)")
  model.add_argument("--home", action="store_true", help="fit the advantage of being at home")
  model.add_argument("--baseline", metavar="ITEM", default="mean", help="the item at the offset (the mean of all)")
  model.add_argument("--prior", metavar="KIND:N", help="normal:SD in nats, or pseudo:N imaginary games (none)")
  model.add_argument(
    "--on-disconnected",
    choices=("raise", "largest", "prior"),
    default="raise",
    help="where no estimate exists because wins do not connect all items (raise)",
  )
  shown = parser.add_argument_group("ratings and uncertainty")
  shown.add_argument("--scale", metavar="X", type=in_range(float, 1e-9), default=400.0, help="points (400) ...")
  shown.add_argument("--base", metavar="X", type=in_range(float, 1.000001), default=10.0, help="... of such odds (10)")
  shown.add_argument(
    "--offset", metavar="X", type=in_range(float, -1e15, 1e15), default=1000.0, help="rating of the baseline (1000)"
  )
  shown.add_argument("--level", metavar="P", type=in_range(float, 1e-9, 1 - 1e-9), default=0.95, help="(0.95)")
  shown.add_argument("--covariance", choices=("hessian", "sandwich"), help="of standard errors (hessian)")
  shown.add_argument(
    "--bootstrap", metavar="N", type=in_range(int, 2), help="errors, intervals and ranks by N resamples instead"
  )
  shown.add_argument("--seed", metavar="N", type=in_range(int, 0), help="of the resamples (0)")
  shown.add_argument(
    "--suggest", metavar="N", type=in_range(int, 1, 1_000_000), help="the N pairs to compare next, by what they tell"
  )
  written = parser.add_argument_group("what is written")
  written.add_argument("--out", metavar="FILE", type=file_path, help="everything as .json, or the tables as .csv")
  written.add_argument(
    "--plot", metavar="FILE", type=file_path, help="ratings, ranks and win probabilities as .png, .svg or .pdf"
  )
  return parser


def _options(arguments: list[str]) -> Any:
  """The options, checked against each other."""
  options = _parser().parse_args(arguments)
  if not any(getattr(options, name) for name in ("a", "b", "outcome", "winner", "loser")) and _is_lmarenas(
    options.file
  ):
    options.a, options.b, options.outcome = LMARENA
  if options.winner is not None or options.loser is not None:
    if options.winner is None or options.loser is None:
      raise ConfigError("--winner and --loser come together")
    if options.both_bad != "tie":
      raise ConfigError("--both-bad has no meaning with --winner and --loser; it belongs to --outcome")
    for name in ("a", "b", "outcome", "map", "home", "neutral"):
      if getattr(options, name) not in (None, False, []):
        raise ConfigError(f"--{name} has no meaning with --winner and --loser; it belongs to --a, --b and --outcome")
  else:
    missing = [f"--{name}" for name in ("a", "b", "outcome") if getattr(options, name) is None]
    if missing:
      raise ConfigError(f"{missing[0]} is missing; name the columns --a, --b and --outcome, or --winner and --loser")
    if options.tie is not None:
      raise ConfigError("--tie has no meaning with --outcome, which says what is a tie; it belongs to --winner")
  if options.neutral is not None and not options.home:
    raise ConfigError("--neutral has no meaning without --home")
  for other in ("bootstrap", "cluster"):
    if getattr(options, other) is not None and options.covariance is not None:
      raise ConfigError(f"--covariance has no meaning with --{other}")
  if options.seed is not None and options.bootstrap is None:
    raise ConfigError("--seed has no meaning without --bootstrap")
  return options


def _outcome_map(words: list[str]) -> dict[str, str] | None:
  for word in words:
    label, sign, meaning = word.rpartition("=")
    if not sign or meaning not in ("a", "b", "tie", "both_bad", "drop"):
      raise ConfigError(f"--map {word}: wanted LABEL=a, LABEL=b, LABEL=tie, LABEL=both_bad or LABEL=drop")
    if sum(other.rpartition("=")[0] == label for other in words) > 1:
      raise ConfigError(f"--map: {label!r} is there twice")
  return {word.rpartition("=")[0]: word.rpartition("=")[2] for word in words} or None


def _prior(text: str | None) -> "Normal | Pseudo | None":
  from dpojax.bradley_terry import Normal, Pseudo

  if text is None:
    return None
  kind, _, number = text.partition(":")
  try:
    value = float(number)
  except ValueError:
    value = math.nan
  if kind not in ("normal", "pseudo") or not 0 < value < math.inf:
    raise ConfigError(f"--prior={text}: wanted normal:SD or pseudo:N with a number above 0, such as pseudo:1")
  return Normal(value) if kind == "normal" else Pseudo(value)


def _is_lmarenas(file: str) -> bool:
  """Whether a file has the columns of LMArena's votes."""
  from dpojax.bradley_terry.blocks import column_names

  return set(LMARENA) <= set(column_names(file))


def _covariates(words: list[str]) -> dict[str, str | tuple[str, str]]:
  """What each covariate is made of, by its name: of two columns what they have in common.

  >>> _covariates(["lead", "tokens_a,tokens_b", "chars,words"])
  {'lead': 'lead', 'tokens': ('tokens_a', 'tokens_b'), 'chars - words': ('chars', 'words')}
  """
  found: dict[str, str | tuple[str, str]] = {}
  for word in words:
    columns = word.split(",")
    if len(columns) > 2 or not all(columns):
      raise ConfigError(f"--covariate={word}: wanted a column, or two of which the difference is meant: COLUMN,COLUMN")
    name, source = word, columns[0]
    if len(columns) == 2:
      one, two = (re.split(r"[_\-. ]", column) for column in columns)
      other = [k for k, (x, y) in enumerate(zip(one, two, strict=False)) if x != y]
      alike = len(one) == len(two) > 1 and len(other) == 1
      name = "_".join(one[: other[0]] + one[other[0] + 1 :]) if alike else " - ".join(columns)
      source = (columns[0], columns[1])
    if name in found:
      raise ConfigError(f"--covariate={word}: {name!r} is there twice")
    found[name] = source
  return found


def _of_one_side(options: Any) -> list[str]:
  """What is said of a covariate such as `tokens_a` whose other side, `tokens_b`, is a column that is not asked for."""
  from dpojax.bradley_terry.blocks import column_names

  single = [word for word in options.covariate if "," not in word]
  columns = column_names(options.file) if single else []
  swap = {"a": "b", "b": "a", "1": "2", "2": "1", "home": "away", "away": "home", "winner": "loser", "loser": "winner"}
  found = []
  for word in single:
    parts = re.split(r"([_\-. ])", word)
    others = ["".join([*parts[:k], swap[x], *parts[k + 1 :]]) for k, x in enumerate(parts) if x in swap]
    if len(parts) > 1 and (other := next((name for name in others if name in columns and name not in single), None)):
      found.append(f"--covariate={word} is of one side alone; --covariate={word},{other} is the difference of both")
  return found


def _tables_beside(out: str | None) -> list[tuple[pathlib.Path, str]]:
  """Files of the other tables beside a leaderboard that is written as CSV, and what they are in the result."""
  path = pathlib.Path(out or "")
  if path.suffix != ".csv":
    return []
  return [(path.with_suffix(f".{name}.csv"), name) for name in ("parameters", "suggestions")]


def _similar(group: tuple[str, ...]) -> str:
  """What is said of names that look alike, in a form in which they do not."""
  plain = [repr(name) for name in group]
  names = plain if len({unicodedata.normalize("NFC", name) for name in plain}) == len(plain) else map(ascii, group)
  return f"{' and '.join(names)} differ only in spaces, case or Unicode form; they are counted as different items"


def _read(options: Any) -> tuple[Any, Read]:
  """The comparisons, covariates standardised, and what came of the file."""
  from dpojax.bradley_terry import read_comparisons, similar_labels

  covariates = _covariates(options.covariate)
  line, read = Line(after=1.0), dict(read=0, dropped=0, both_bad=0)

  def progress(now) -> None:
    read.update(read=now.rows, dropped=now.dropped, both_bad=now.both_bad)
    line.show(f"read {now.rows:,} rows, {100 * now.share:.0f} %")

  try:
    data = read_comparisons(
      options.file,
      options.a,
      options.b,
      options.outcome,
      outcome_map=_outcome_map(options.map),
      winner=options.winner,
      loser=options.loser,
      tie=options.tie,
      weight=options.weight,
      home=options.home,
      neutral=options.neutral,
      covariates=covariates,
      cluster=options.cluster,
      both_bad=options.both_bad,
      progress=progress,
    )
  except DataError as error:
    raise DataError(_as_options(str(error))) from error
  finally:
    line.close()
  data, scales = data.standardised()
  return data, Read(**read, scales=scales, similar=similar_labels(data.items))


def _fit(options: Any, data: Any, prior: "Normal | Pseudo | None") -> "tuple[BradleyTerryFit, str]":
  """The fit, and a warning where it did not converge."""
  from dpojax.bradley_terry import fit

  baseline = next((item for item in data.items if str(item) == options.baseline), options.baseline)
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    with _errors(options.file):
      found = fit(
        data,
        baseline=baseline,
        ties=options.ties,
        home=options.home,
        prior=prior,
        on_disconnected=options.on_disconnected,
      )
  return found, "" if found.converged else str(caught[-1].message)


@contextlib.contextmanager
def _errors(file: str) -> Iterator[None]:
  """Errors of the package as this command's: with the file's name, and with its options."""
  try:
    yield
  except DataError as error:
    raise type(error)(f"{file}: {_as_options(str(error))}") from error


def _as_options(text: str) -> str:
  """A message of `fit` with its arguments written as this command takes them.

  >>> _as_options("(on_disconnected='largest'), or choose a prior (prior=Pseudo(1))")
  '(--on-disconnected=largest), or choose a prior (--prior=pseudo:1)'
  >>> _as_options("such as outcome_map={'a draw': 'tie'}")
  "such as --map 'a draw=tie'"
  """
  text = re.sub(r"outcome_map=\{'(.*)': '(\w+)'\}", lambda m: f"--map {shlex.quote(f'{m[1]}={m[2]}')}", text)
  text = text.replace("outcome_map", "--map")
  text = re.sub(r"prior=(Pseudo|Normal)\((\w+)\)", lambda m: f"--prior={m[1].lower()}:{m[2]}", text)
  return re.sub(r"\b(ties|on_disconnected|both_bad)=('?)(\w+)\2", lambda m: f"--{m[1].replace('_', '-')}={m[3]}", text)


@contextlib.contextmanager
def _written(path: str | None, option: str, suffixes: tuple[str, ...]) -> Iterator[pathlib.Path | None]:
  """`output_path` of an option that may be left out, with one of these suffixes; None for None."""
  if path is None:
    yield None
    return
  if pathlib.Path(path).suffix not in suffixes:
    raise ConfigError(f"{option}={path}: its name must end in {', '.join(suffixes)}")
  with output_path(path, option) as part:
    yield part
