"""Times the numerics under the models beside what they cannot do without, measured in the same run.

python benchmarks/ops.py [products|attention|head|optimizer|growth] [--repeats=10] [--out=FILE.json]

The floor of each: products, at the rate of a 2048^3 product of the same precision; attention, the operations of
its visible scores at that rate and their exponentials; the head, its four products (logits twice) and two passes
over the logits, each timed alone; the optimizer, the bytes it reads and writes at the rate of a copy. `growth`
is the gradient of a whole policy pass against row length and vocabulary (benchmarks/scaling.py).

Variants run in turns and each reports its least time. --clock=cpu gives processor time divided by the cores, which
is steadier where others use the machine too; read ratios then. Findings: LOG.md.
"""

import argparse
import functools
import sys
from pathlib import Path

sys.path.append(sys.path.pop(0))  # this folder last: some of its names are those of libraries
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import CLOCKS, compile_for, copy_bandwidth, draw, exp_seconds, least_seconds, product_rate

# isort: split
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.counting import attention_floor, update_bytes, visible_scores
from benchmarks.environment import add_common_options, has_fast_bfloat16, refuse_if_busy, table, write_results
from benchmarks.kernels import SMOLLM2, attention_of, head_of, head_pieces, hh_like_rows, update_of
from benchmarks.scaling import growth, growth_tables
from dpojax.config.schema import OptimizerSettings
from dpojax.models.config import ModelConfig
from dpojax.models.language_model import LanguageModel
from dpojax.ops.matmul import contract, contract_first
from dpojax.training.optimizer import make_optimizer

HEAD_GOAL = 1.3  # times its floor


class Bench:
  """What a run measures with, and the rows it has found: one for each variant, with its floor where it has one."""

  def __init__(self, precisions: list[str], repeats: int, clock: str):
    self.precisions, self.repeats, self.clock = precisions, repeats, clock
    self.rate = {precision: product_rate(precision, repeats, clock) for precision in precisions}
    self.rows: list[dict] = []

  def compare(self, part: str, variants: dict, extra: dict | None = None) -> dict[str, float]:
    """Times variants {name: (function, arguments, floor in s or None, operations)} and `extra` calls between them.

    A floor may be a function of the times of `extra`, which are returned.
    """
    compiled = {name: compile_for(f, *given) for name, (f, given, *_) in variants.items()}
    calls = {name: functools.partial(compiled[name], *given) for name, (_, given, *_) in variants.items()}
    seconds = least_seconds(calls | (extra or {}), self.repeats, self.clock)
    for name, (_, _, floor, operations) in variants.items():
      megabytes = compiled[name].memory_analysis().temp_size_in_bytes / 1e6
      floor = floor(seconds) if callable(floor) else floor
      self.add(part, name, seconds[name], floor, operations=operations, megabytes=megabytes)
    return {name: seconds[name] for name in extra or {}}

  def add(self, part, name, seconds, floor, *, operations=0.0, megabytes=None, goal=None) -> None:
    rate = operations / seconds / 1e9 if operations else None
    row = dict(part=part, name=name, seconds=seconds, floor=floor, gflops=rate, megabytes=megabytes, goal=goal)
    self.rows.append(row)
    print("  " + "  ".join(cells_of(row)), flush=True)


def products(bench: Bench) -> dict:
  inner, last, first = ((((a,), (b,)), ((), ())) for a, b in ((1, 0), (1, 1), (0, 0)))
  for tokens, inputs, outputs in ((2048, 576, 1536), (2048, 1536, 576), (2048, 576, 576), (2048, 576, 192)):
    part = f"products {tokens} x {inputs} x {outputs}"
    print(part)
    x, w, g = draw((tokens, inputs), (inputs, outputs), (tokens, outputs))
    operations = 2.0 * tokens * inputs * outputs
    for form, dimensions, a, b in (("x w", inner, x, w), ("g w'", last, g, w), ("x' g", first, x, g)):
      forms = {p: functools.partial(contract, dimensions=dimensions, precision=p) for p in bench.precisions}
      variants = {f"{form}, {p}": (f, (a, b), operations / bench.rate[p], operations) for p, f in forms.items()}
      if form == "x' g" and "bfloat16" in forms:
        f = functools.partial(contract_first, precision="bfloat16")
        variants["x' g, bfloat16, contract_first"] = f, (a, b), operations / bench.rate["bfloat16"], operations
      bench.compare(part, variants)
  return {}


def whole_scores(q, k, v, places, *, precision):
  """The same attention with every score of a row at once, differentiated by JAX."""
  segment, answer = places["segment"], places["answer"]
  length, heads, width = q.shape[1:]
  repeat = heads // k.shape[2]
  q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, jnp.repeat(k, repeat, 2), jnp.repeat(v, repeat, 2)))
  mask = (segment[:, :, None] == segment[:, None]) & (segment >= 0)[:, None] & np.tri(length, dtype=bool)
  mask &= (answer < 0)[:, None] | (answer[:, :, None] == answer[:, None])
  scores = contract(q, k, (((3,), (3,)), ((0, 1), (0, 1))), precision=precision) * width**-0.5
  weight = jax.nn.softmax(jnp.where(mask[:, None], scores, -1e30), -1)
  return contract(weight, v, (((3,), (2,)), ((0, 1), (0, 1))), precision=precision).transpose(0, 2, 1, 3)


def attention(bench: Bench) -> dict:
  exp = exp_seconds(clock=bench.clock)
  q, k, v, toward = draw(*((4, 1024, heads, 64) for heads in (9, 3, 3, 9)))
  one_example = {"segment": np.zeros((4, 1024), np.int32), "answer": np.full((4, 1024), -1, np.int32)}
  one_example["position"] = np.tile(np.arange(1024, dtype=np.int32), (4, 1))
  for what, places in (("examples of about 190 tokens", hh_like_rows(4, 1024)), ("one example a row", one_example)):
    part = f"attention of 4 rows of 1,024 tokens, 9 heads on 3, width 64, {what}"
    print(part)
    least = attention_floor(visible_scores(places["segment"], places["answer"]), 9, 64)
    variants = {}
    for precision in bench.precisions:
      floor = {k: n["operations"] / bench.rate[precision] + n["exps"] * exp for k, n in least.items()}
      forward, gradient = attention_of(precision)
      whole = functools.partial(whole_scores, precision=precision)
      pull = jax.grad(lambda q, k, v, places, toward, f=whole: jnp.sum(f(q, k, v, places) * toward), (0, 1, 2))
      for name, f, given, kind in (
        ("blocks", forward, (q, k, v, places), "forward"),
        ("blocks", gradient, (q, k, v, places, toward), "gradient"),
        ("whole scores", whole, (q, k, v, places), "forward"),
        ("whole scores", pull, (q, k, v, places, toward), "gradient"),
      ):
        variants[f"{name}, {precision}, {kind}"] = f, given, floor[kind], 0.0
    bench.compare(part, variants)
  return {"exp_ns": exp * 1e9}


def whole_logits(precision: str):
  """The head's gradient with all logits at once, differentiated by JAX."""

  def total(hidden, embedding, target, toward):
    logits = contract(hidden, embedding, (((1,), (1,)), ((), ())), precision=precision)
    return jnp.sum(toward * jnp.take_along_axis(jax.nn.log_softmax(logits), target[:, None], 1)[:, 0])

  return jax.grad(total, (0, 1))


def head(bench: Bench, number: int = 2048, width: int = 576, words: int = 49152, chunk: int = 512) -> dict:
  hidden, embedding, toward = draw((number, width), (words, width), (number,))
  target = np.random.default_rng(1).integers(0, words, number).astype(np.int32)
  part = f"log-probs and their gradient at {number:,} positions, width {width}, {words:,} words"
  print(part)
  found = {}
  for precision in bench.precisions:
    pieces = {}
    for name, (f, shapes) in head_pieces(number, width, words, chunk, precision).items():
      given = draw(*shapes)
      pieces[name] = functools.partial(compile_for(f, *given), *given)

    def floor(seconds, names=tuple(pieces)):
      return number / chunk * sum(seconds[name] for name in names)

    forms = {f"chunks of {n}": head_of(precision, n)[1] for n in (chunk // 2, chunk, 2 * chunk)}
    forms["plain"] = whole_logits(precision)
    operations = 8.0 * number * width * words
    given = hidden, embedding, target, toward
    variants = {f"{name}, {precision}": (f, given, floor, operations) for name, f in forms.items()}
    found[precision] = bench.compare(part, variants, pieces)
    for row in bench.rows[-len(forms) :]:
      row["goal"] = HEAD_GOAL if row["name"].startswith(f"chunks of {chunk},") else None
  return {"head_pieces_ms": {p: {k: number / chunk * s * 1e3 for k, s in v.items()} for p, v in found.items()}}


def optimizer(bench: Bench, config: ModelConfig = SMOLLM2) -> dict:
  bandwidth = copy_bandwidth(bench.repeats)
  model = LanguageModel(config)
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0)))
  parameters = sum(x.size for x in jax.tree.leaves(shapes))
  part = f"update of {parameters / 1e6:.0f}M parameters in place, clipped by the global norm"
  print(part)
  for name, moments in (("adamw", 2), ("rmsprop", 1)):
    optimizer = make_optimizer(OptimizerSettings(name=name), 1)
    params, gradient = (jax.tree.map(lambda x: jnp.full(x.shape, 1e-3, x.dtype), shapes) for _ in range(2))
    state = [params, optimizer.in_place().init(params)]
    rate = jnp.float32(1e-6)
    compiled = compile_for(update_of(optimizer), *state, gradient, rate, donate_argnums=(0, 1))
    del params

    def call(state=state, compiled=compiled, gradient=gradient, rate=rate):
      state[0], state[1], norm = compiled(state[0], state[1], gradient, rate)
      return norm, state[0]

    seconds = least_seconds({name: call}, bench.repeats, bench.clock)[name]
    floor = update_bytes(parameters, moments=moments) / bandwidth
    bench.add(part, name, seconds, floor, megabytes=compiled.memory_analysis().temp_size_in_bytes / 1e6)
  return {"copy_gb_per_second": bandwidth / 1e9}


def cells_of(row: dict) -> list[str]:
  def number(value, form, scale=1.0):
    return "" if value is None else format(value * scale, form)

  ratio = row["seconds"] / row["floor"] if row["floor"] else None
  goal = f" (goal {row['goal']})" if row["goal"] else ""
  cells = [row["name"], number(row["seconds"], ".2f", 1e3), number(row["floor"], ".2f", 1e3)]
  return [*cells, number(ratio, ".2f") + goal, number(row["gflops"], ".0f"), number(row["megabytes"], ".0f")]


def summary(found: dict) -> str:
  """Markdown tables of each part."""
  rates = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {precision}" for precision, rate in found["rate"].items())
  lines = [f"2048^3 product: {rates}. Least {found['clock']} time of {found['repeats']} repetitions."]
  if "exp_ns" in found:
    lines[0] += f" An exponential: {found['exp_ns']:.2f} ns."
  if "copy_gb_per_second" in found:
    lines[0] += f" Copy: {found['copy_gb_per_second']:.1f} GB/s read and written."
  header = ["", "ms", "floor, ms", "times the floor", "GFLOP/s", "MB temporaries"]
  for part in dict.fromkeys(row["part"] for row in found["rows"]):
    rows = [cells_of(row) for row in found["rows"] if row["part"] == part]
    lines += ["", part[0].upper() + part[1:], "", table(header, rows)]
  for precision, pieces in found.get("head_pieces_ms", {}).items():
    parts = ", ".join(f"{name} {ms:.0f}" for name, ms in pieces.items())
    lines += ["", f"The head's floor in {precision}, ms: {parts}."]
  if "growth" in found:
    lines += ["", growth_tables(found["growth"])]
  return "\n".join(lines)


PARTS = dict(products=products, attention=attention, head=head, optimizer=optimizer)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("part", nargs="?", choices=(*PARTS, "growth"))
  parser.add_argument("--repeats", type=int, default=10)
  parser.add_argument("--clock", default="wall", choices=tuple(CLOCKS))
  parser.add_argument(
    "--precision", help="float32, bfloat16 or both with a comma; default: bfloat16 only where the processor has it"
  )
  add_common_options(parser)
  options = parser.parse_args()
  load = refuse_if_busy(options.force)
  default = "float32,bfloat16" if has_fast_bfloat16() else "float32"
  precisions: list[str] = [*(options.precision or default).split(",")]
  bench = Bench(precisions, options.repeats, options.clock)
  found = dict(clock=options.clock, repeats=options.repeats, load_before=load, rate=bench.rate, rows=bench.rows)
  for part in [options.part] if options.part else [*PARTS, "growth"]:
    if part == "growth":
      found["growth"] = growth(precisions[0], min(options.repeats, 3), options.clock)
    else:
      found |= PARTS[part](bench)
    write_results(options.out, found)
  print("\n" + summary(found))


if __name__ == "__main__":
  main()
