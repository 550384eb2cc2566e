"""`dpojax sample`: answers of a model to prompts, on the screen or in a file."""

import argparse
import contextlib
import dataclasses
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dpojax import __version__
from dpojax.cli.arguments import add_model, file_path, in_range, temperature
from dpojax.cli.options import Parser
from dpojax.cli.output import check_not_read, check_replaceable
from dpojax.cli.progress import Line
from dpojax.cli.rows import add_data_options, data_settings, say_warnings
from dpojax.config.option import MOST_ROWS, MOST_SAMPLES
from dpojax.config.schema import DataSettings
from dpojax.errors import ConfigError, DataError

if TYPE_CHECKING:
  from dpojax.data.formats.common import Message
  from dpojax.rollout.answers_file import Sampling

DESCRIPTION = """Answers of a model to prompts, on stdout; what was done and how fast on stderr.

  dpojax sample --model=MODEL --prompt="How do I say no politely?"
  dpojax sample --model=MODEL --system="Answer in one word." --prompt="What is the capital of France?"
  dpojax sample --model=MODEL --messages=conversation.json
  dpojax sample --model=MODEL --data=prompts.jsonl --samples=4 --out=answers.jsonl

A prompt is a user's message, written in the tokenizer's chat template where it has one; with --raw, and
where there is no template, the answer goes on from the prompt's text as it stands.

--data takes rows of any format of docs/data.md, rows with a prompt alone (text or messages), or a .txt file with a
prompt a line; --out gets a line for every row, in order:

  {"row": 0, "prompt": ..., "samples": [{"text": ..., "ended": "eos", "tokens": [...], "logps": [...]}, ...]}
  {"row": 1, "error": "prompts.jsonl:2: ..."}

"ended" is eos, stop or length; "logps" are nats a token at the sampling temperature. Until all is done the lines are in
FILE.part; the same command again goes on from there, after a kill too, to the same bytes."""
DATA_OPTIONS = ("format", "columns", "template", "max_prompt", "overlong", "limit")


def main(arguments: list[str]) -> int:
  """0 when every prompt is answered, or is in the file with its error."""
  options = _parser().parse_args(arguments)
  _check(options)
  prompts = [] if options.data else _prompts(options)

  from dpojax.cli import compilation_cache
  from dpojax.parallel import check_one_process
  from dpojax.rollout.answers_file import Sampling

  check_one_process()
  compilation_cache.begin()
  sampling = Sampling(
    samples=options.samples,
    max_tokens=options.max_tokens,
    temperature=0.0 if options.greedy else 1.0 if options.temperature is None else options.temperature,
    top_k=options.top_k or 0,
    top_p=1.0 if options.top_p is None else options.top_p,
    stop=tuple(options.stop),
    seed=options.seed,
  )
  if options.data:
    _write_file(options, sampling)
  else:
    _write_screen(options, sampling, prompts)
  return 0


def _write_file(options: argparse.Namespace, sampling: "Sampling") -> None:
  """Answers to the prompts of `--data`, in the file of `--out`."""
  from dpojax.data.examples import check_ids
  from dpojax.data.prompts import read_prompts
  from dpojax.data.templates import with_template
  from dpojax.rollout.answers_file import AT_ONCE, answers_job, read_answers, write_answers
  from dpojax.training.model_files import load_writer

  loaded = load_writer(options.model, precision=options.precision)
  settings = data_settings(options)
  loaded = dataclasses.replace(loaded, tokenizer=with_template(loaded.tokenizer, settings.template))
  positions = loaded.model.config.max_positions
  if positions and options.max_tokens >= positions:
    raise ConfigError(
      f"--max-tokens={options.max_tokens} leaves no room for a prompt in the model's {positions} positions"
    )
  longest = positions - options.max_tokens if positions else 0
  prompts = read_prompts(dataclasses.replace(settings, template="auto"), loaded.tokenizer, longest=longest)
  say_warnings(prompts.warnings)
  for row in prompts:
    check_ids(row.ids, loaded.model.config.vocab_size, row.where, loaded.tokenizer)

  with _compile_seconds() as compiling:
    progress = _Progress(len(prompts), max(1, AT_ONCE // options.samples), compiling)
    made = write_answers(
      options.out,
      answers_job(prompts, sampling, weights=loaded.digest, model=loaded.model, tokenizer=loaded.tokenizer),
      prompts,
      sampling,
      model=loaded.model,
      params=loaded.params,
      tokenizer=loaded.tokenizer,
      rows=options.rows,
      progress=progress.show,
      about={"model": options.model, "data": options.data, "dpojax": __version__},
    )
  progress.line.close()
  if not made:
    print(f"{options.out} holds these answers already; delete it to sample them again", file=sys.stderr)
    return
  ended = [answer.ended for row in read_answers(options.out) for answer in row.answers]
  left_out = f"; {prompts.summary} (their errors are in the file)" if prompts.dropped else ""
  if longest and prompts.counts["dropped/prompt_too_long"]:
    left_out += f", as --max-tokens leaves {longest} of the model's {positions} positions"
  print(f"{options.out}: {len(ended):,} answers to {len(prompts):,} prompts{left_out}", file=sys.stderr)
  print(
    _speed(progress.tokens, progress.seconds, compiling, ended.count("length"), len(ended), options), file=sys.stderr
  )


class _Progress:
  """Prompts done, tokens a second and the time left, compilation left out.

  Args:
    total: prompts.
    together: that are answered together, and so end at about the same time: nothing can be foretold before.
    compiling: durations so far.
  """

  def __init__(self, total: int, together: int, compiling: list[float]):
    self.total, self.together, self.compiling = total, together, compiling
    self.tokens, self.before, self.line = 0, -1, Line()

  @property
  def seconds(self) -> float:
    return max(time.monotonic() - self.line.start - sum(self.compiling), 1e-3)

  def show(self, done: int, tokens: int) -> None:
    if self.before < 0:  # those of an earlier process took none of our time
      self.before, self.line.start = done, time.monotonic()
    self.tokens, new = tokens, done - self.before
    left = self.seconds / new * (self.total - done) if new >= self.together else None
    self.line.show(f"answered {done:,}/{self.total:,} prompts", f"tokens/s {tokens / self.seconds:,.0f}", left=left)


def _write_screen(options: argparse.Namespace, sampling: "Sampling", prompts: "list[str | list[Message]]") -> None:
  """Answers to `--prompt` and `--prompt-file`, on stdout."""
  from dpojax.data.dataset import encode_prompts
  from dpojax.data.examples import check_ids
  from dpojax.data.prompts import prompts_given
  from dpojax.data.templates import template_source
  from dpojax.rollout.answers_file import sample
  from dpojax.rollout.text import answer_text
  from dpojax.training.model_files import load_language_model

  model, params, tokenizer = load_language_model(options.model, precision=options.precision)
  settings = DataSettings(template=options.template)
  if any(isinstance(prompt, list) for prompt in prompts):
    if template_source(settings.template, tokenizer) is None:
      raise ConfigError(
        f"--{'system' if options.system else 'messages'} needs a chat template, and {options.model} has none; give one as "
        "--template=FILE.jinja, or write all of it in --prompt"
      )
    rows = prompts_given(prompts, settings, tokenizer)
    encoded = [row.ids for row in rows]
    say_warnings(rows.warnings)
  else:
    encoded = encode_prompts([str(prompt) for prompt in prompts], settings, tokenizer)
  for i, ids in enumerate(encoded):
    check_ids(ids, model.config.vocab_size, f"prompt {i}", tokenizer)
  start = time.perf_counter()
  with _compile_seconds() as compiling:
    written = sample(model, params, tokenizer, encoded, sampling, rows=options.rows)
  samples = [each for answers in written for each in answers]
  shown = [prompt if isinstance(prompt, str) else prompt[-1]["content"] for prompt in prompts]
  print(_page(shown, [answer_text(each, tokenizer, sampling.stop).strip() for each in samples], options.samples))
  tokens, cut = sum(len(each.tokens) for each in samples), sum(not each.finished for each in samples)
  seconds = max(time.perf_counter() - start - sum(compiling), 1e-3)
  print(_speed(tokens, seconds, compiling, cut, len(samples), options), file=sys.stderr)


def _speed(
  tokens: int, seconds: float, compiling: list[float], cut: int, answers: int, options: argparse.Namespace
) -> str:
  return (
    f"{tokens} tokens in {seconds:.1f} s, {tokens / seconds:.0f} tokens/s, after {sum(compiling):.1f} s of compilation"
    + (f"; {cut} of {answers} cut at --max-tokens={options.max_tokens}" if cut else "")
  )


def _parser() -> Parser:
  parser = Parser("dpojax sample", DESCRIPTION)
  add_model(parser)
  parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="may be given again")
  parser.add_argument(
    "--system", metavar="TEXT", default="", help="system message before every prompt; needs a chat template"
  )
  parser.add_argument(
    "--messages",
    metavar="JSON",
    default="",
    help='a conversation to go on with, a list of {"role", "content"} as JSON or the file that holds it',
  )
  parser.add_argument(
    "--prompt-file", metavar="FILE", type=file_path, help="one prompt a line; empty lines are skipped"
  )
  parser.add_argument(
    "--data", metavar="FILE", type=file_path, help="JSONL, JSON, CSV, Parquet or text file, .gz allowed; needs --out"
  )
  parser.add_argument(
    "--out", metavar="FILE", type=file_path, help="where the answers to --data go, when all are there"
  )
  add_data_options(parser, DATA_OPTIONS)
  parser.add_argument("--max-tokens", metavar="N", type=in_range(int, 1), default=128, help="longest answer (128)")
  parser.add_argument(
    "--samples", metavar="N", type=in_range(int, 1, MOST_SAMPLES), default=1, help="answers to each prompt (1)"
  )
  parser.add_argument("--greedy", action="store_true", help="the most probable token at each step")
  parser.add_argument(
    "--temperature", metavar="T", type=temperature, help="logits are divided by it, at least 0.001; 0: greedy (1)"
  )
  parser.add_argument(
    "--top-k", metavar="N", type=in_range(int, 0), help="most probable tokens that are kept; 0: all (0)"
  )
  parser.add_argument(
    "--top-p", metavar="P", type=in_range(float, 1e-6, 1.0), help="mass of the nucleus that is kept (1)"
  )
  parser.add_argument(
    "--stop",
    action="append",
    default=[],
    metavar="TEXT",
    help="text that ends an answer and is cut off; may be given again",
  )
  parser.add_argument("--seed", metavar="N", type=in_range(int, 0, 2**32 - 1), default=0, help="of all randomness (0)")
  parser.add_argument(
    "--rows", metavar="N", type=in_range(int, 1, MOST_ROWS), default=64, help="answers at once, at most (64)"
  )
  parser.add_argument("--raw", action="store_true", help="no chat template: --template=none")
  return parser


def _check(options: argparse.Namespace) -> None:
  """Raises ConfigError for options that contradict; `--raw` becomes a template of none."""
  defaults = DataSettings()
  if options.data and (options.prompt or options.prompt_file is not None):
    raise ConfigError("--data and --prompt are both given; prompts of a file and of the command line go apart")
  for name in ("system", "messages"):
    if options.data and getattr(options, name):
      raise ConfigError(f"--{name} and --data are both given; give the rows of --data a column {name!r}")
    if options.raw and getattr(options, name):
      raise ConfigError(f"--{name} needs a chat template to write it with, and --raw has none; leave --raw out")
  if options.data and not options.out:
    raise ConfigError("--data answers a whole file, into another: name it as --out=FILE.jsonl")
  check_not_read(options.out, "--out", options.data, "--data")
  check_not_read(options.out, "--out", options.model, "--model")
  if options.out:
    check_replaceable(options.out, "--out")
  if not options.data:
    if options.out:
      raise ConfigError("--out is for the answers to --data=FILE; answers to --prompt go to stdout")
    for name in (name for name in DATA_OPTIONS if name != "template"):
      if getattr(options, name) != getattr(defaults, name):
        raise ConfigError(f"--{name.replace('_', '-')} says how --data=FILE is read, and there is none")
  if options.raw:
    if options.template not in (defaults.template, "none"):
      raise ConfigError(f"--raw means --template=none, but --template={options.template} is given; choose one")
    options.template = "none"
  if options.greedy and options.samples > 1:
    raise ConfigError("--greedy gives one answer a prompt, so --samples must be 1; leave --greedy out to draw more")
  if options.greedy and any(x is not None for x in (options.temperature, options.top_k, options.top_p)):
    raise ConfigError("--greedy has no --temperature, no --top-k and no --top-p; give the one or the others")
  if "" in options.stop:
    raise ConfigError("--stop is empty; every answer holds an empty text")


def _prompts(options: argparse.Namespace) -> "list[str | list[Message]]":
  """What is asked: texts, or messages where there is a system message or a conversation."""
  texts = list(options.prompt)
  if options.prompt_file is not None:
    try:
      lines = pathlib.Path(options.prompt_file).read_text(encoding="utf-8-sig").split("\n")  # \r\n is read as \n
    except (OSError, UnicodeDecodeError) as error:
      raise DataError(f"--prompt-file={options.prompt_file}: {error}; give a UTF-8 text file") from None
    texts += [line for line in lines if line.strip()]
  prompts: list[str | list[Message]] = list(texts)
  system: list[Message] = [{"role": "system", "content": options.system}] if options.system else []
  if system:
    prompts = [[*system, {"role": "user", "content": text}] for text in texts]
  if options.messages:
    conversation = _conversation(options.messages)
    if system and conversation[0]["role"] == "system":
      raise ConfigError("--system is given, and --messages begins with a system message too; leave one out")
    prompts.append([*system, *conversation])
  if not prompts:
    raise ConfigError("there is no prompt; give --prompt=TEXT, --messages=JSON, or --prompt-file=FILE with one a line")
  return prompts


def _conversation(given: str) -> "list[Message]":
  """The messages of `--messages`, JSON itself or a file of it.

  Raises:
    DataError: it is neither, no list of messages, or ends in an answer.
  """
  from dpojax.data.formats.cells import load_json
  from dpojax.data.formats.common import messages

  text, where = given, "--messages"
  if not given.lstrip().startswith(("[", "{")):
    where = f"--messages={given}"
    try:
      text = pathlib.Path(given).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a NUL in the name
      raise DataError(f"{where}: {error}; give a JSON list of messages, or a file that holds one") from None
  try:
    value = load_json(text)
    found = messages(value if isinstance(value, dict) and "messages" in value else {"messages": value}, "messages")
  except (ValueError, DataError) as error:
    raise DataError(f'{where}: {error}; give [{{"role": "user", "content": "..."}}, ...]') from None
  if found[-1]["role"] == "assistant":
    raise DataError(f"{where}: the conversation ends in an answer; end it with a message to answer")
  return found


@contextlib.contextmanager
def _compile_seconds() -> Iterator[list[float]]:
  """Durations of what JAX compiles inside the block."""
  from jax import monitoring

  durations: list[float] = []

  def listen(event: str, duration_secs: float, **_) -> None:
    if event.startswith("/jax/core/compile/"):
      durations.append(duration_secs)

  monitoring.register_event_duration_secs_listener(listen)
  try:
    yield durations
  finally:
    monitoring.unregister_event_duration_listener(listen)


def _page(prompts: list[str], answers: list[str], each: int) -> str:
  """An answer alone, or every prompt with its answers below it."""
  if len(answers) == 1:
    return answers[0]
  blocks = []
  for i, prompt in enumerate(prompts):
    written = answers[i * each : (i + 1) * each]
    numbered = written if each == 1 else [f"[{n}] {answer}" for n, answer in enumerate(written, 1)]
    blocks.append("\n".join([f"> {prompt}", *numbered]))
  return "\n\n".join(blocks)
