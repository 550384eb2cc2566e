"""`dpojax sample`: answers of a model to prompts."""

import argparse
import contextlib
import pathlib
import sys
import time
from collections.abc import Iterator

from dpojax.cli.arguments import add_model, in_range
from dpojax.cli.options import Parser
from dpojax.errors import ConfigError, DataError

DESCRIPTION = """Answers of a model to prompts, on stdout; what was done and how fast on stderr.

A prompt is a user's message, written in the tokenizer's chat template where it has one; with --raw, and
where there is no template, the answer goes on from the prompt's text as it stands."""


def main(arguments: list[str]) -> int:
  """0 when every prompt is answered."""
  options = _parser().parse_args(arguments)
  prompts = _prompts(options)
  if options.greedy and options.samples > 1:
    raise ConfigError("--greedy gives one answer a prompt, so --samples must be 1; leave --greedy out to draw more")
  if options.greedy and any(x is not None for x in (options.temperature, options.top_p)):
    raise ConfigError("--greedy has no --temperature and no --top-p; give the one or the others")

  from dpojax.cli import compilation_cache
  from dpojax.config.schema import DataSettings
  from dpojax.data.dataset import encode_prompts
  from dpojax.data.examples import check_ids
  from dpojax.parallel import check_one_process
  from dpojax.rollout.sampler import generate
  from dpojax.training.model_files import load_language_model

  check_one_process()
  compilation_cache.begin()
  model, params, tokenizer = load_language_model(options.model, precision=options.precision)
  encoded = encode_prompts(prompts, DataSettings(template="none" if options.raw else "auto"), tokenizer)
  for i, ids in enumerate(encoded):
    check_ids(ids, model.config.vocab_size, f"prompt {i}", tokenizer)
  start = time.perf_counter()
  with _compile_seconds() as compiling:
    written = generate(
      model,
      params,
      encoded,
      samples=options.samples,
      max_tokens=options.max_tokens,
      eos_id=tokenizer.eos_ids,
      temperature=0.0 if options.greedy else 1.0 if options.temperature is None else options.temperature,
      top_p=1.0 if options.top_p is None else options.top_p,
      seed=options.seed,
    )
  samples = [sample for each in written for sample in each]
  seconds = max(time.perf_counter() - start - sum(compiling), 1e-3)
  answers = [tokenizer.decode(sample.tokens.tolist(), skip_special_tokens=True).strip() for sample in samples]
  print(_page(prompts, answers, options.samples))
  tokens = sum(len(sample.tokens) for sample in samples)
  cut = sum(not sample.finished for sample in samples)
  print(
    f"{tokens} tokens in {seconds:.1f} s, {tokens / seconds:.0f} tokens/s, after {sum(compiling):.1f} s of compilation"
    + (f"; {cut} of {len(samples)} cut at --max-tokens={options.max_tokens}" if cut else ""),
    file=sys.stderr,
  )
  return 0


def _parser() -> Parser:
  parser = Parser("dpojax sample", DESCRIPTION)
  add_model(parser)
  parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="may be given again")
  parser.add_argument("--prompt-file", metavar="FILE", help="one prompt a line; empty lines are skipped")
  parser.add_argument("--max-tokens", metavar="N", type=in_range(int, 1), default=128, help="longest answer (128)")
  parser.add_argument("--samples", metavar="N", type=in_range(int, 1), default=1, help="answers to each prompt (1)")
  parser.add_argument("--greedy", action="store_true", help="the most probable token at each step")
  parser.add_argument(
    "--temperature", metavar="T", type=in_range(float, 0.0), help="logits are divided by it; 0: greedy (1)"
  )
  parser.add_argument(
    "--top-p", metavar="P", type=in_range(float, 1e-6, 1.0), help="mass of the nucleus that is kept (1)"
  )
  parser.add_argument("--seed", metavar="N", type=in_range(int, 0, 2**32 - 1), default=0, help="of all randomness (0)")
  parser.add_argument("--raw", action="store_true", help="no chat template")
  return parser


def _prompts(options: argparse.Namespace) -> list[str]:
  prompts = list(options.prompt)
  if options.prompt_file is not None:
    try:
      lines = pathlib.Path(options.prompt_file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
      raise DataError(f"--prompt-file={options.prompt_file}: {error}; give a UTF-8 text file") from None
    prompts += [line for line in lines if line.strip()]
  if not prompts:
    raise ConfigError("there is no prompt; give --prompt=TEXT, or --prompt-file=FILE with one a line")
  return prompts


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
