"""What `gpu_check.py` asks of a device: each a function that returns a line of figures, or fails.

The device is the first GPU, the reference the same machine's processor in float32; without a GPU both are the processor.
"""

import contextlib
import dataclasses
import hashlib
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu.policy_parts import policy_gradient
from benchmarks.gpu.rows import read_rows
from benchmarks.gpu.setting import CheckError, Setting, apart, cpu, gpu, mesh_on, placed, require, within
from dpojax.config.schema import BatchSettings, CheckpointSettings
from dpojax.data.batches import Batches
from dpojax.data.examples import TokenDataset
from dpojax.data.packing import pack
from dpojax.data.slots import locate
from dpojax.losses import LOSSES
from dpojax.losses.spec import loss_spec
from dpojax.objectives.preference import Preference
from dpojax.ops.attention import packed_attention
from dpojax.ops.attention_gpu import reason_without, without_kernels
from dpojax.parallel.placement import place_params
from dpojax.references.reference_cache import CachedBatches, ReferenceCache
from dpojax.rollout.sampler import generate
from dpojax.scoring.logps import logps_of_rows
from dpojax.scoring.packed import Scorer
from dpojax.training.checkpoint import Checkpointer
from dpojax.training.step import accumulate, place_hyper
from dpojax.training.trainer import Trainer, one_step_late
from tests.losses import loss_draws

ROOT = Path(__file__).resolve().parents[2]
# Of ours in a compiled program; XLA's own products by Triton have other names.
KERNEL = 'custom_call_target="__gpu$xla.gpu.triton"'
LN2 = np.float32(math.log(2))


def train(trainer: Trainer, batches, steps: int) -> list:
  """[(step, metrics as numbers)] of `steps` further steps."""
  return list(one_step_late(trainer.steps(batches, int(trainer.state.step) + steps)))


# ---- the parts


def packed_is_alone(size: str) -> str:
  """Answers packed with a shared prompt, and each alone in a row of its own; one program scores both."""
  setting = Setting.of(size, 16)
  params = place_params(setting.params(), mesh_on(gpu()), {})
  shape = setting.batches(16).shape
  whole = [setting.dataset[i] for i in range(len(setting.dataset))]
  single = [dataclasses.replace(example, answers=(answer,)) for example in whole for answer in example.answers]

  def scored(examples, precision):
    """Log-probs of the answers' tokens, one array an answer, in order; `examples` are packed together."""
    batch = pack([dataclasses.replace(example, index=i) for i, example in enumerate(examples)], shape)
    logp = Scorer(logps_of_rows, setting.model(precision), params, mesh_on(gpu()))(batch).reshape(-1)
    ends = np.cumsum([len(answer) for example in examples for answer in example.answers])
    return np.split(logp[locate(batch).in_order().place], ends[:-1])

  said = []
  for precision in ("float32", "bfloat16"):
    together = scored(whole, precision)
    alone = [scored([example], precision)[0] for example in single]
    gaps = [np.asarray(a, np.float64) - b for a, b in zip(together, alone, strict=True)]
    a_token, an_answer = max(np.max(np.abs(gap)) for gap in gaps), max(abs(np.sum(gap)) for gap in gaps)
    if precision == "float32":
      said.append(within("float32: nats a token", a_token, 5e-5))
      said.append(within("an answer", an_answer, 5e-4))
    else:  # packing alone moves an answer, as any other shape of a product does
      said.append(f"bfloat16, for comparison: {a_token:.2g}, {an_answer:.2g}")
  return ", ".join(said)


def layout(length: int, rows: int):
  """Places of real rows, as they are packed: i32[rows, length] each."""
  batches = Batches(read_rows(256, vocabulary=64, longest=length // 2), BatchSettings(128, rows, length))
  batch = batches(0)
  return {name: jnp.asarray(np.asarray(getattr(batch, name))[0]) for name in ("segment", "answer", "position")}


def attention_kernels(size: str) -> str:
  """Triton's kernels and the block form on the same device: output and gradient, every width, and a window."""
  length = 256 if size == "tiny" else 1024
  widths = (16,) if size == "tiny" else (16, 32, 64, 128, 256)
  cases = [(width, None) for width in widths] + [(widths[len(widths) // 2], 100)]
  places = layout(length, 2)
  draws = np.random.default_rng(0)
  arrays = [
    tuple(draws.standard_normal((2, length, heads, width), np.float32) for heads in (6, 2, 2, 6)) for width, _ in cases
  ]
  arrays = jax.device_put(arrays, gpu())

  def attended(precision):
    """All cases in one program, which is compiled in less time than as many programs are."""

    def every(arrays):
      found = []
      for (q, k, v, toward), (_, window) in zip(arrays, cases, strict=True):
        out, pull_back = jax.vjp(
          lambda q, k, v, window=window: packed_attention(q, k, v, **places, precision=precision, window=window),
          q,
          k,
          v,
        )
        found.append((out, *pull_back(toward)))
      return found

    compiled = jax.jit(every).lower(arrays).compile()
    return compiled(arrays), compiled.as_text().count(KERNEL)

  said = []
  for precision, allowed in (("float32", 1e-5), ("bfloat16", 5e-3)):
    found, kernels = attended(precision)
    with without_kernels():
      expected, others = attended(precision)
    require(others == 0, f"{others} kernels in the block form")
    if gpu().platform == "gpu" and not reason_without():
      require(kernels == 3 * len(cases), f"{kernels} kernels, where {3 * len(cases)} were expected")
    worst = max(
      apart(a, b) for one, other in zip(found, expected, strict=True) for a, b in zip(one, other, strict=True)
    )
    said.append(f"{kernels} kernels, {within(precision, worst, allowed)}")
  return f"widths {', '.join(map(str, widths))}: {', '.join(said)}"


def every_loss_on_cpu(size: str) -> str:
  """Value and gradient of every loss of the registry on the same log-probs or rewards, beside the processor's."""
  drawn = {name: loss_draws.draw(name, size=64, dtype=np.float32) for name in LOSSES}
  values = {name: jax.device_get(loss_draws.fields(policy)) for name, (policy, *_) in drawn.items()}

  def computed(values):
    found = {}
    for name, (policy, *others) in drawn.items():

      def mean(values, name=name, policy=policy, others=others):
        return loss_draws.mean_of(name, (dataclasses.replace(policy, **values), *others))

      found[name] = jax.value_and_grad(mean)(values[name])
    return found

  here, there = (jax.device_get(jax.jit(computed)(jax.device_put(values, d))) for d in (cpu(), gpu()))
  worst = {"value": 0.0, "gradient": 0.0}
  for name, (value, gradient) in there.items():
    expected, expected_gradient = here[name]
    found = {"value": abs(value - expected) / max(1.0, abs(expected)), "gradient": apart(gradient, expected_gradient)}
    require(found["value"] <= 1e-5 and found["gradient"] <= 1e-4, f"{name}: {found}")
    worst = {key: max(worst[key], float(found[key])) for key in worst}
  return f"{len(there)} losses: value {worst['value']:.2g} (at most 1e-05), gradient {worst['gradient']:.2g} (at most 0.0001)"


def step_on_cpu(size: str) -> str:
  """Loss and gradient of a whole step in float32 beside the processor's: DPO, with kernels and without; AOT, in two passes."""
  setting = Setting.of(size, 8)
  batch = setting.batches(8)(0)

  def computed(device, loss):
    mesh = mesh_on(device)
    params, frozen = (place_params(setting.params(seed), mesh, {}) for seed in (0, 1))
    hyper = place_hyper(dict(loss_spec(loss, beta=0.1).hyper), mesh)
    objective = Preference(setting.model(), loss_spec(loss))
    # A new function each time: jit would find the program that it has.
    step = jax.jit(lambda p, f, b, h: accumulate(objective, p, f, b, h)[:2])
    compiled = step.lower(params, frozen, placed(batch, device), hyper).compile()
    return jax.device_get(compiled(params, frozen, placed(batch, device), hyper)), compiled.as_text().count(KERNEL)

  said = []
  on_cpu = {name: computed(cpu(), name)[0] for name in ("dpo", "aot")}
  for name, kernels_allowed in (("dpo", True), ("dpo", False), ("aot", True)):
    expected, expected_gradient = on_cpu[name]
    with contextlib.nullcontext() if kernels_allowed else without_kernels():
      (loss, gradient), kernels = computed(gpu(), name)
    require(kernels_allowed or kernels == 0, f"{kernels} kernels in the program that should have none")
    label = name if kernels_allowed else f"{name} without kernels"
    said.append(within(f"{label}: loss", abs(float(loss) - float(expected)) / float(expected), 1e-5))
    said.append(within("gradient", apart(gradient, expected_gradient), 5e-5))
  return ", ".join(said)


def first_loss(size: str) -> str:
  """The first DPO loss in bfloat16 with a live reference: ln 2 to the last bits of a mean.

  Policy and reference are one computation, fused in two ways: their log-probs may differ by float32's rounding alone.
  """
  setting = Setting.of(size, 16)
  ((_, metrics),) = train(setting.trainer(gpu(), "bfloat16"), setting.batches(16), 1)
  said = within("loss - ln 2", abs(metrics["loss"] - float(LN2)), 2.4e-7)
  return f"{said}, {within('mean margin', abs(metrics['rewards/margins']), 1e-5)}"


def twenty_steps(size: str) -> str:
  """Twenty steps on the same pairs: float32 beside the processor's, and bfloat16 learns."""
  setting = Setting.of(size, 4)

  def losses(device, precision):
    trainer = setting.trainer(device, precision)
    return np.array([metrics["loss"] for _, metrics in train(trainer, setting.batches(4), 20)])

  found, expected, rounded = losses(gpu(), "float32"), losses(cpu(), "float32"), losses(gpu(), "bfloat16")
  said = [within("float32: largest difference of loss", np.max(np.abs(found - expected)), 2e-3)]
  said.append(require(found[-1] < 0.9 * found[0], f"loss {found[0]:.3f} -> {found[-1]:.3f}"))
  said.append(require(rounded[-1] < 0.9 * rounded[0], f"bfloat16: {rounded[0]:.3f} -> {rounded[-1]:.3f}"))
  return ", ".join(said)


def resume(size: str) -> str:
  """Ten steps, a checkpoint, ten more; and the checkpoint read into a new trainer that takes those ten."""
  setting = Setting.of(size, 16)
  batches = setting.batches(8)
  straight = setting.trainer(gpu(), "bfloat16")
  again = setting.trainer(gpu(), "bfloat16")
  with tempfile.TemporaryDirectory() as folder, Checkpointer(folder, CheckpointSettings()) as checkpointer:
    train(straight, batches, 10)
    checkpointer.save(10, straight.state)
    checkpointer.wait()
    step, again.state = checkpointer.restore(again.state)
  restored = apart(again.params, straight.params)
  train(straight, batches, 10)
  train(again, batches, 10)
  different = sum(
    not np.array_equal(a, b)
    for a, b in zip(*(jax.tree.leaves(jax.device_get(t.state)) for t in (straight, again)), strict=True)
  )
  said = f"restored at step {step}: {within('difference', restored, 0.0)}"
  return f"{said}, {within('arrays that differ ten steps on', different, 0)}"


def repeatable(size: str) -> str:
  """The same step twice from the same state, bit for bit."""
  setting = Setting.of(size, 16)
  batch = placed(setting.batches(16)(0), gpu())
  states = []
  for _ in range(2):
    trainer = setting.trainer(gpu(), "bfloat16")
    trainer.take_step(batch)
    states.append(jax.device_get(trainer.params))
  paths = jax.tree_util.tree_flatten_with_path(states[0])[0]
  different = [
    jax.tree_util.keystr(path) for (path, a), b in zip(paths, jax.tree.leaves(states[1]), strict=True) if (a != b).any()
  ]
  return require(not different, f"parameters that differ: {', '.join(different) or 'none'}")


def cached_reference(size: str) -> str:
  """The reference's log-probs from the disk cache, in float32, instead of live."""
  setting = Setting.of(size, 16)
  batches = setting.batches(16)
  score = Scorer(logps_of_rows, setting.model(), setting.params(), mesh_on(gpu()))
  said = []
  with tempfile.TemporaryDirectory() as folder:
    cache = ReferenceCache(folder, weights="made", config=setting.config.to_dict(), precision="float32")
    count = cache.fill(setting.dataset, score, batches.shape)
    said.append(f"{count} answers")
    for precision, allowed in (("float32", 2e-5), ("bfloat16", 0.02)):
      trainer = setting.trainer(gpu(), precision, live=False)
      ((_, metrics),) = train(trainer, CachedBatches(batches, cache), 1)
      said.append(within(f"{precision}: loss - ln 2", abs(metrics["loss"] - float(LN2)), allowed))
  return ", ".join(said)


def sampling(size: str) -> str:
  """Sampled answers: the sampler's log-probs beside the packed scorer's, on the device and on the processor."""
  setting = Setting.of(size, 16)
  model, params = setting.model(), setting.params()
  prompts = [setting.dataset[i].prompt for i in range(16)]
  with jax.default_device(gpu()):
    written = generate(model, jax.device_put(params, gpu()), prompts, max_tokens=16, eos_id=None, seed=3)
  samples = [each[0] for each in written]
  written = TokenDataset.from_examples([(p, [s.tokens]) for p, s in zip(prompts, samples, strict=True)])
  batches = Batches(written, BatchSettings(size=16, rows=2, row_length=setting.row_length))
  host, worst = batches(0), {}
  expected = np.concatenate([s.logp for s in samples])
  for device in (gpu(), cpu()):
    logp = Scorer(logps_of_rows, model, params, mesh_on(device))(host).reshape(-1)
    worst[device.platform] = np.max(np.abs(logp[locate(host).in_order().place] - expected))
  return ", ".join(within(f"nats a token to the scorer on {name}", found, 1e-4) for name, found in worst.items())


def digest_of_steps(size: str) -> str:
  """Of all parameters after three steps in bfloat16."""
  setting = Setting.of(size, 16)
  trainer = setting.trainer(gpu(), "bfloat16")
  train(trainer, setting.batches(16), 3)
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(jax.device_get(trainer.params)):
    digest.update(np.ascontiguousarray(leaf))
  return digest.hexdigest()


def another_process(size: str) -> str:
  """Three steps in two fresh processes that share a cache of programs, as `dpojax` commands do: bit for bit the same.

  A third compiles for itself. On a GPU it may choose other kernels for the same program, by timing them
  (`XLA_FLAGS=--xla_gpu_autotune_level=0` forbids that), so what it gives is said and not required.
  """
  code = f"from benchmarks.gpu.parts import digest_of_steps; print(digest_of_steps({size!r}))"

  def digest(cache: str) -> str:
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    done = subprocess.run(
      [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    require(done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-300:]}")
    return done.stdout.split()[-1][:12]

  with tempfile.TemporaryDirectory() as cache:
    one, other = digest(cache), digest(cache)
  anew = digest("")
  said = f"digests {one} and {other}; compiled anew {'the same' if anew == one else anew}"
  return require(one == other, said)


PARTS: dict[str, Callable[[str], str]] = {
  "packed = alone": packed_is_alone,
  "attention kernels = block form": attention_kernels,
  "every loss = CPU": every_loss_on_cpu,
  "step = CPU": step_on_cpu,
  "first loss is ln 2": first_loss,
  "twenty steps": twenty_steps,
  "checkpoint and resume": resume,
  "a step twice": repeatable,
  "cached reference": cached_reference,
  "another process": another_process,
  "sampling": sampling,
  "policy gradient": policy_gradient,
}


def run_parts(size: str, report: Callable[[dict], None], names: tuple[str, ...] = ()) -> None:
  """Runs the parts, each whatever became of the others, and reports each as soon as it ends."""
  for name, part in PARTS.items():
    if names and name not in names:
      continue
    started = time.perf_counter()
    try:
      found = dict(passed=True, text=part(size))
    except Exception as error:  # a part's failure is a finding
      kind = "" if isinstance(error, CheckError) else f"{type(error).__name__}: "
      found = dict(passed=False, text=kind + str(error).strip()[:600])
    report(dict(part=name, seconds=round(time.perf_counter() - started, 1), **found))
    jax.clear_caches()
