"""Every preference loss on the tiny model, in two layouts of a step. Run as a script with eight host devices.

Prints JSON: for every loss the difference of the loss, and of the gradient normwise, between eight devices that take two
row groups and one device that takes one.
"""

import dataclasses
import json
import sys

import jax
import numpy as np

from dpojax.config.schema import BatchSettings, ParallelSettings
from dpojax.data.batches import Batches
from dpojax.data.examples import TokenDataset
from dpojax.data.packing import BatchShape
from dpojax.data.unpaired import unpaired, with_mismatched
from dpojax.losses import LOSSES
from dpojax.losses.spec import loss_spec
from dpojax.objectives.preference import Preference
from dpojax.parallel import batch_shardings, make_mesh
from dpojax.parallel.placement import place_params
from dpojax.training.step import accumulate, place_hyper
from tests.training.tiny import MODEL, tiny_dataset, tiny_params, with_opponents

LAYOUT = (8, 8)  # rows of a group and devices: two groups on eight
ANSWERS = {"pair": 2, "triple": 3, "ranking": 4, "unpaired": 2}


def families():
  """Losses that can be summed, coupled ones also apart: {name of the family: names}."""
  found = {}
  for name, loss in LOSSES.items():
    if not loss.of_rewards:
      coupled = Preference(MODEL, loss_spec(name)).coupled
      found.setdefault(f"{loss.answers.value}, {'coupled' if coupled else 'summed'}", []).append(name)
  return found


# With its penalty of 50 and beta 0.3, dpop multiplies the log-probs' own rounding by 15, which is not the layout's doing.
WRITTEN = {"dpop": "dpop(penalty=5)"}


def dataset_for(kind, examples=16):
  """Examples of the kind that a loss reads, of unequal lengths and weights."""
  single = kind == "unpaired"
  dataset = tiny_dataset(examples // 2 if single else examples, ANSWERS[kind])
  if single:
    dataset = with_mismatched(unpaired(dataset), row_length=64, max_positions=64)
  weights = np.random.default_rng(3).choice([0.0, 0.5, 1.0, 2.0], len(dataset))
  return TokenDataset([dataclasses.replace(dataset[i], weight=float(w)) for i, w in enumerate(weights)])


def batch_for(dataset, rows, score_prompt):
  """The whole data set as one step, one example a row: the same packing in every layout."""
  settings = BatchSettings(size=len(dataset), rows=rows, row_length=64)
  answers = dataset.num_answers + score_prompt
  shape = BatchShape(-(-len(dataset) // rows), rows, 64, 64, 1, answers, score_prompt)
  return with_opponents(Batches(dataset, settings, shape)(0))


def moved_params():
  """Other parameters than the reference's, so that losses and gradients are not those of the start."""
  keys = iter(jax.random.split(jax.random.key(9), 100))
  return jax.tree.map(lambda x: x + 0.03 * jax.random.normal(next(keys), x.shape, x.dtype), tiny_params())


def losses_and_gradients(names, batch, devices=1):
  """{name: (loss, gradient)} of a whole step: one program for the sum, run with all weights but one at zero."""
  spec = loss_spec("+".join(WRITTEN.get(name, name) for name in names), beta=0.3)
  objective = Preference(MODEL, spec)
  mesh = make_mesh(ParallelSettings(fsdp=min(devices, 4)), jax.devices()[:devices])
  batch = jax.device_put(batch, batch_shardings(mesh, batch))
  params, frozen = (place_params(p, mesh, MODEL.parameters) for p in (moved_params(), tiny_params()))
  step = jax.jit(lambda p, f, b, h: accumulate(objective, p, f, b, h)[:2])
  hyper = dict(spec.hyper) | objective.running
  found = {}
  for name in names:
    weights = {f"{other}.weight": float(other == name) for other in names}
    found[name] = jax.device_get(step(params, frozen, batch, place_hyper(hyper | weights, mesh)))
  return found


def norm(tree):
  return np.sqrt(sum(float(np.sum(np.square(x, dtype=np.float64))) for x in jax.tree.leaves(tree)))


def differences(one, other):
  """(relative difference of the loss, normwise difference of the gradient)."""
  loss = abs(float(one[0]) - float(other[0])) / max(1.0, abs(float(one[0])))
  return loss, norm(jax.tree.map(np.subtract, other[1], one[1])) / norm(one[1])


def main(wanted):
  """Prints the figures of the losses called `wanted`."""
  results = {}
  for family, names in families().items():
    names = [name for name in names if name in wanted]
    if not names:
      continue
    dataset = dataset_for(family.partition(",")[0])
    prompt = any("prompt" in LOSSES[name].reads for name in names)
    base = losses_and_gradients(names, batch_for(dataset, 16, prompt))
    rows, devices = LAYOUT
    other = losses_and_gradients(names, batch_for(dataset, rows, prompt), devices)
    for name in names:
      loss, gradient = differences(base[name], other[name])
      results[name] = {"size": norm(base[name][1]), "loss": loss, "gradient": gradient}
  print(json.dumps(results, indent=1))


if __name__ == "__main__":
  main(sys.argv[1:])
