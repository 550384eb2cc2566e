"""Timing compiled functions, and what this machine can do at best: products, exponentials, copies."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from dpojax.config.schema import ParallelSettings
from dpojax.ops.matmul import contract
from dpojax.parallel import compiler_options, make_mesh

CORES = len(os.sched_getaffinity(0))
CLOCKS: dict[str, Callable[[], float]] = {
  "wall": time.perf_counter,
  # Steadier where others use the machine too, but flatters what keeps only one core busy.
  "cpu": lambda: time.process_time() / CORES,
}
INNER = (((1,), (0,)), ((), ()))


def compile_for(function: Callable, *arguments, **options) -> Any:
  """The function compiled for these arguments, by the compiler's options of a training step."""
  asked = compiler_options(make_mesh(ParallelSettings()))
  return jax.jit(function, compiler_options=asked, **options).lower(*arguments).compile()


def planned_bytes(analysis: Any) -> int:
  """Most bytes that a compiled program holds at one time, its arguments among them, as the compiler planned it.

  XLA for CPU leaves temporaries out of the peak that it states: arguments and results alone (measured).
  """
  if jax.default_backend() != "cpu":
    return analysis.peak_memory_in_bytes
  results = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
  return analysis.argument_size_in_bytes + results + analysis.temp_size_in_bytes


def least_seconds(calls: dict[str, Callable[[], Any]], repeats: int, clock: str = "wall") -> dict[str, float]:
  """Each call's least time; they run in turns, after a warm-up, so that a disturbance meets all of them."""
  now = CLOCKS[clock]
  least = dict.fromkeys(calls, float("inf"))
  for repeat in range(repeats + 1):
    for name, call in calls.items():
      started = now()
      jax.block_until_ready(call())
      if repeat:
        least[name] = min(least[name], now() - started)
  return least


def draw(*shapes, seed: int = 0) -> tuple[jax.Array, ...]:
  random = np.random.default_rng(seed)
  return tuple(jnp.asarray(random.standard_normal(size=shape, dtype=np.float32)) for shape in shapes)


def product_rate(precision: str, repeats: int = 10, clock: str = "wall") -> float:
  """Operations a second of a 2048^3 product of operands stored in this precision, float32 sums: what products cost."""
  size = 2048
  a, b = (x.astype(precision) for x in draw((size, size), (size, size)))
  call = compile_for(lambda a, b: contract(a, b, INNER, precision=precision), a, b)
  return 2.0 * size**3 / least_seconds({"product": lambda: call(a, b)}, repeats, clock)["product"]


def exp_seconds(repeats: int = 20, clock: str = "wall") -> float:
  """Seconds an exponential, at the size of array at which it is cheapest."""
  calls, sizes = {}, {}
  for power in (16, 18, 20, 22):
    (x,) = draw((2**power,))
    call = compile_for(jnp.exp, x)
    calls[str(power)], sizes[str(power)] = lambda call=call, x=x: call(x), 2**power
  return min(seconds / sizes[name] for name, seconds in least_seconds(calls, repeats, clock).items())


def copy_bandwidth(repeats: int = 10, megabytes: int = 256) -> float:
  """Bytes read and written a second: the better of a copy by all cores and an update of an array in place."""
  entries = megabytes * 10**6 // 4
  source, target = np.ones(entries, np.float32), np.zeros(entries, np.float32)
  parts = [slice(i * entries // CORES, (i + 1) * entries // CORES) for i in range(CORES)]
  in_place = jax.jit(lambda x: x * np.float32(1.0001), donate_argnums=0)
  state = [jnp.ones(entries, jnp.float32)]

  def update():
    state[0] = in_place(state[0])
    return state[0]

  with ThreadPoolExecutor(CORES) as pool:

    def copy():
      list(pool.map(lambda part: np.copyto(target[part], source[part]), parts))

    least = least_seconds({"copy": copy, "update": update}, repeats)
  return 2.0 * 4 * entries / min(least.values())
