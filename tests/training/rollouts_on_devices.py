"""Run in a process of its own with eight host devices: policy gradients on one device and on eight.

Prints JSON. "given": 8 updates of PPO in float32 from the same samples; the normwise difference of the parameters to those
of one device. "whole": 2 roll-outs of 4 updates in float64, sampling included; whether all tokens are equal, and the
largest difference of a parameter. GRPO is PPO's step without its critic; what differs is computed on the host.
"""

import json
import pathlib
import tempfile

import jax
import numpy as np

from dpojax.training.rollouts import Rollout
from tests.training.tiny_rollouts import make_prompts, make_stage, sampler

EVERY_AXIS = "data 2 x fsdp 2 x tensor 2"
LAYOUTS = {"data 8": dict(data=8), EVERY_AXIS: dict(data=2, fsdp=2, tensor=2)}
UPDATES = 8


class Kept:
  """Writes by another, keeps what it wrote, and writes the same again, whatever the policy."""

  def __init__(self):
    self.samples, self.write = {}, None

  def __call__(self, params, prompts, numbers, progress):
    if numbers[0] not in self.samples:
      self.samples[numbers[0]] = self.write(params, prompts, numbers, progress)
    return self.samples[numbers[0]]


def stage(folder, **options):
  options = {"rows": 8, "batch_size": 8, "prompts": make_prompts(40), "kl_controller": "adaptive"} | options
  return make_stage(pathlib.Path(folder), **options)


def norm(tree):
  return np.sqrt(sum(float(np.sum(np.square(x, dtype=np.float64))) for x in jax.tree.leaves(tree)))


def trained(made):
  begun = jax.device_get(made.trainer.params)
  made.run(UPDATES)
  return begun, jax.device_get(made.trainer.params)


def given(folder):
  """How far the parameters moved, and their normwise difference on devices along every axis."""
  kept = Kept()
  options = dict(critic="shared", learning_rate=1e-3)
  alone = stage(f"{folder}/given", write=kept, **options)
  kept.write = sampler(alone.trainer.objective.model, alone.rollouts.rollout)
  begun, expected = trained(alone)
  _, params = trained(stage(f"{folder}/devices", write=kept, parallel=LAYOUTS[EVERY_AXIS], **options))
  return {
    "moved": norm(jax.tree.map(np.subtract, expected, begun)) / norm(begun),
    "apart": norm(jax.tree.map(np.subtract, params, expected)) / norm(expected),
  }


def tokens_of(folder):
  files = sorted(pathlib.Path(folder, "rollouts").glob("*.npz"))
  return [Rollout.read(file, "this").tokens for file in files]


def whole(folder, **options):
  """(largest difference of a parameter, first roll-out in which a token differs or None), by layout."""
  _, expected = trained(stage(f"{folder}/alone", **options))
  found = {}
  for layout, parallel in LAYOUTS.items():
    _, params = trained(stage(f"{folder}/{layout}", parallel=parallel, **options))
    apart = max(float(np.max(np.abs(a - b))) for a, b in zip(*map(jax.tree.leaves, (params, expected)), strict=True))
    pairs = zip(tokens_of(f"{folder}/alone"), tokens_of(f"{folder}/{layout}"), strict=True)
    differ = [number for number, (a, b) in enumerate(pairs) if not np.array_equal(a, b)]
    found[layout] = {"apart": apart, "first": differ[0] if differ else None}
  return found, sorted({str(x.dtype) for x in jax.tree.leaves(expected)}), len(tokens_of(f"{folder}/alone"))


def main():
  with tempfile.TemporaryDirectory() as folder:
    results = {"given": given(folder)}
    with jax.enable_x64(True):
      found, dtypes, rollouts = whole(folder + "/64", dtype=np.float64)
      results |= {"whole": found, "dtypes": dtypes, "rollouts": rollouts}
  print(json.dumps(results, indent=1))


if __name__ == "__main__":
  main()
