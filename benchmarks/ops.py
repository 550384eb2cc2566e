"""Times the numerics under the models in the forms they have and in the forms they avoid.

python benchmarks/ops.py [products|attention|head] [--repeats=10]

Variants run in turns and each reports its least CPU time, divided by the cores: on a machine that does
other work too, that is steadier than the clock. Read ratios, not milliseconds. Findings: LOG.md.
"""

import argparse
import functools
import os
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from dpojax.ops.attention import packed_attention
from dpojax.ops.logprobs import scored_logps
from dpojax.ops.matmul import contract, contract_first

CORES = os.cpu_count() or 1


def compare(variants: dict, arguments: tuple, repeats: int, operations: float = 0.0) -> None:
  """Prints ms a call, temporaries in MB, and GFLOP/s where `operations` says how many each call does."""
  compiled = {name: jax.jit(f).lower(*arguments).compile() for name, f in variants.items()}
  least = dict.fromkeys(compiled, float("inf"))
  for repeat in range(repeats + 1):  # the first is a warm-up
    for name, f in compiled.items():
      start = time.process_time()
      jax.block_until_ready(f(*arguments))
      if repeat:
        least[name] = min(least[name], (time.process_time() - start) / CORES)
  for name, seconds in least.items():
    rate = f"{operations / seconds / 1e9:6.0f} GFLOP/s" if operations else ""
    megabytes = compiled[name].memory_analysis().temp_size_in_bytes / 1e6
    print(f"  {name:34s} {seconds * 1e3:8.2f} ms {rate:16s} {megabytes:7.0f} MB temporaries")


def draw(*shapes) -> tuple[jax.Array, ...]:
  random = np.random.default_rng(0)
  return tuple(jnp.asarray(random.normal(size=shape), jnp.float32) for shape in shapes)


def products(repeats: int) -> None:
  inner, last, first = ((((a,), (b,)), ((), ())) for a, b in ((1, 0), (1, 1), (0, 0)))
  for tokens, inputs, outputs in ((2048, 576, 1536), (2048, 1536, 576), (2048, 576, 576), (2048, 576, 192)):
    print(f"{tokens} x {inputs} x {outputs}")
    x, w, g = draw((tokens, inputs), (inputs, outputs), (tokens, outputs))
    operations = 2.0 * tokens * inputs * outputs
    for form, dimensions, a, b in (("x w", inner, x, w), ("g w'", last, g, w), ("x' g", first, x, g)):
      variants = {
        f"{form}, {precision}": functools.partial(contract, dimensions=dimensions, precision=precision)
        for precision in ("float32", "bfloat16")
      }
      if form == "x' g":
        variants["x' g, bfloat16, contract_first"] = functools.partial(contract_first, precision="bfloat16")
      compare(variants, (a, b), repeats, operations)


def hh_like_rows(rows: int, length: int, mean: int = 190) -> dict[str, np.ndarray]:
  """Full rows of pairs whose lengths are spread as those of HH."""
  random = np.random.default_rng(0)
  segment, answer = np.full((2, rows, length), -1, np.int32)
  position = np.zeros((rows, length), np.int32)
  for r in range(rows):
    at = example = 0
    while at < length:
      size = min(length - at, max(20, int(random.lognormal(np.log(0.8 * mean), 0.6))))
      prompt, chosen = size // 2, size // 4
      ends = at + prompt, at + prompt + chosen, at + size
      segment[r, at : ends[2]] = example
      answer[r, ends[0] : ends[1]], answer[r, ends[1] : ends[2]] = 2 * example, 2 * example + 1
      position[r, at : ends[1]] = range(prompt + chosen)
      position[r, ends[1] : ends[2]] = range(prompt, size - chosen)
      at, example = ends[2], example + 1
  return dict(segment=segment, answer=answer, position=position)


def whole_scores(q, k, v, *, segment, answer, position, precision):
  """The same attention with every score of a row at once, differentiated by JAX."""
  length, heads, width = q.shape[1:]
  repeat = heads // k.shape[2]
  q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, jnp.repeat(k, repeat, 2), jnp.repeat(v, repeat, 2)))
  mask = (segment[:, :, None] == segment[:, None]) & (segment >= 0)[:, None] & np.tri(length, dtype=bool)
  mask &= (answer < 0)[:, None] | (answer[:, :, None] == answer[:, None])
  scores = contract(q, k, (((3,), (3,)), ((0, 1), (0, 1))), precision=precision) * width**-0.5
  weight = jax.nn.softmax(jnp.where(mask[:, None], scores, -1e30), -1)
  return contract(weight, v, (((3,), (2,)), ((0, 1), (0, 1))), precision=precision).transpose(0, 2, 1, 3)


def attention(repeats: int) -> None:
  mask = hh_like_rows(4, 1024)
  q, k, v, toward = draw(*((4, 1024, heads, 64) for heads in (9, 3, 3, 9)))
  forward, both = {}, {}
  for name, f in (("whole scores", whole_scores), ("blocks", packed_attention)):
    for precision in ("float32", "bfloat16"):
      g = functools.partial(f, **mask, precision=precision)
      forward[f"{name}, {precision}, forward"] = g
      both[f"{name}, {precision}, gradient"] = jax.grad(lambda q, k, v, g=g: jnp.sum(g(q, k, v) * toward), (0, 1, 2))
  print("attention of 4 rows of 1,024 tokens, 9 heads on 3, width 64, examples of about 190 tokens")
  compare(forward | both, (q, k, v), repeats)


def head(repeats: int) -> None:
  number, width, words = 2048, 576, 49152
  hidden, embedding, toward = draw((number, width), (words, width), (number,))
  target = np.random.default_rng(1).integers(0, words, number).astype(np.int32)

  def plain(hidden, embedding, precision):
    logits = contract(hidden, embedding, (((1,), (1,)), ((), ())), precision=precision)
    return jnp.take_along_axis(jax.nn.log_softmax(logits), target[:, None], 1)[:, 0]

  def chunked(hidden, embedding, precision, chunk):
    return scored_logps(hidden, embedding, target, chunk=chunk, precision=precision).logp

  forms = {"plain": plain} | {f"chunks of {n}": functools.partial(chunked, chunk=n) for n in (256, 512, 1024)}
  variants = {
    f"{name}, {precision}": jax.grad(lambda h, e, f=f, p=precision: jnp.sum(toward * f(h, e, p)), (0, 1))
    for name, f in forms.items()
    for precision in ("float32", "bfloat16")
  }
  print(f"log-probs and their gradient at {number:,} positions, width {width}, {words:,} words")
  compare(variants, (hidden, embedding), repeats, 6.0 * number * width * words)


if __name__ == "__main__":
  parts = dict(products=products, attention=attention, head=head)
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("part", nargs="?", choices=parts)
  parser.add_argument("--repeats", type=int, default=10)
  options = parser.parse_args()
  for part in [options.part] if options.part else parts:
    parts[part](options.repeats)
