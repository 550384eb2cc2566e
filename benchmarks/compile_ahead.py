"""Compiles for TPU and GPU, without one: attention's kernels alone, and DPO steps of SmolLM2's size.

pip install "jax[tpu]==0.10.2" -e .
python benchmarks/compile_ahead.py [attention|step] --platform=tpu --topology=v5e:2x2

pip install -e . nvidia-cuda-nvcc-cu12
pip install --no-deps jax-cuda12-plugin==0.10.2 jax-cuda12-pjrt==0.10.2
python benchmarks/compile_ahead.py [attention|step] --platform=cuda --topology=8.0

The same with CUDA 13, here of another JAX: --no-deps jax-cuda13-plugin==0.11.2 jax-cuda13-pjrt==0.11.2 nvidia-cuda-nvcc
nvidia-nvvm nvidia-cuda-nvrtc.

These packages hold the real compilers, so this shows that the kernels are accepted, that programs over several devices
keep them, and how much memory is planned. It shows nothing about speed. Findings: LOG.md. A GPU is named by its compute
capability: 8.0 (A100), 8.9 (RTX 4090) or 9.0 (H100).
"""

import argparse
import contextlib
import functools
import importlib.util
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from dpojax.config.schema import OptimizerSettings, ParallelSettings
from dpojax.data.packing import BatchShape, pack
from dpojax.models.config import ModelConfig
from dpojax.models.language_model import LanguageModel
from dpojax.objectives.preference import Preference
from dpojax.ops import attention as attention_module
from dpojax.parallel import batch_shardings, make_mesh, replicated, state_shardings
from dpojax.parallel.rules import ROW_AXES
from dpojax.training.optimizer import make_optimizer
from dpojax.training.state import new_state
from dpojax.training.step import make_train_step

KERNELS = ("tpu_custom_call", "__gpu$xla.gpu.triton")
# capability -> streaming multiprocessors, KB of shared memory (of one, and of a program), GB of memory, TB/s
GPUS = {"8.0": (108, 164, 163, 80, 2.0), "8.9": (128, 100, 99, 24, 1.0), "9.0": (132, 228, 227, 80, 3.3)}
KINDS = {"8.0": "NVIDIA A100", "8.9": "NVIDIA GeForce RTX 4090", "9.0": "NVIDIA H100"}  # as Pallas knows them
SMOLLM2 = ModelConfig(vocab_size=49152, hidden=576, layers=30, heads=9, kv_heads=3, ffn=1536, rope_theta=1e5)


def report(name, function, *arguments) -> None:
  """Compiles and prints seconds, kernels in the program, collectives, and planned peak memory of one device."""
  start = time.perf_counter()
  with kernels_lowered_for(jax.tree.leaves(arguments)[0].sharding.mesh):
    compiled = function.lower(*arguments).compile()
  text = compiled.as_text()
  kernels = sum(text.count(f'custom_call_target="{name}"') for name in KERNELS)
  count = lambda name: text.count(f" {name}(") + text.count(f" {name}-start(")  # noqa: E731
  collectives = ", ".join(f"{count(name)} {name}" for name in ("all-gather", "all-reduce"))
  gigabytes = compiled.memory_analysis().peak_memory_in_bytes / 1e9
  seconds = time.perf_counter() - start
  print(f"  {name:64s} {seconds:5.0f} s  {kernels} kernels, {collectives}, {gigabytes:6.3f} GB", flush=True)


def kernels_lowered_for(mesh):
  """A context in which Pallas knows the GPU: since jax 0.11 it asks the mesh in use, not the arguments' devices."""
  device = mesh.devices.flat[0]
  if device.platform != "gpu":
    return contextlib.nullcontext()
  kind = jax.sharding.AbstractDevice(KINDS[device.compute_capability], None, "gpu")
  sizes = tuple(mesh.shape.values())
  abstract = jax.sharding.AbstractMesh(sizes, mesh.axis_names, axis_types=mesh.axis_types, abstract_device=kind)
  return jax.sharding.use_abstract_mesh(abstract)


def mesh_of(devices, **axes):
  settings = ParallelSettings(**axes)
  return make_mesh(settings, devices[: settings.data * settings.fsdp * settings.tensor])


def attention(devices) -> None:
  """Forward and backward of one attention."""
  for axes, rows, length, heads, kv_heads, width, precision, window in (
    (dict(data=1), 4, 1024, 9, 3, 64, "bfloat16", None),
    (dict(data=1), 4, 1024, 9, 3, 64, "float32", None),
    (dict(data=1), 4, 1000, 32, 8, 128, "bfloat16", 512),
    (dict(data=1), 2, 8192, 32, 8, 128, "bfloat16", None),
    (dict(data=1), 2, 2048, 32, 8, 128, "float32", None),
    (dict(data=1), 2, 2048, 8, 4, 256, "bfloat16", None),
    (dict(data=1), 2, 2048, 8, 4, 256, "float32", None),
    (dict(data=1), 2, 2048, 8, 4, 16, "bfloat16", None),
    (dict(data=1, fsdp=2, tensor=2), 4, 1024, 32, 8, 128, "bfloat16", None),
    (dict(data=2, tensor=2), 4, 1024, 9, 3, 64, "bfloat16", None),
  ):
    mesh = mesh_of(devices, **axes)
    split = "tensor" if kv_heads % mesh.shape["tensor"] == 0 else None

    def shape(heads, mesh=mesh, sizes=(rows, length, width), split=split):
      sharding = NamedSharding(mesh, PartitionSpec(ROW_AXES, None, split))
      return jax.ShapeDtypeStruct((*sizes[:2], heads, sizes[2]), jnp.float32, sharding=sharding)

    place = jax.ShapeDtypeStruct((rows, length), jnp.int32, sharding=NamedSharding(mesh, PartitionSpec(ROW_AXES)))

    def both(q, k, v, toward, mask, precision=precision, window=window):
      attend = functools.partial(attention_module.packed_attention, **mask, precision=precision, window=window)
      out, pull_back = jax.vjp(attend, q, k, v)
      return out, pull_back(toward)

    name = f"{axes}, {rows} x {length}, heads {heads} on {kv_heads}, width {width}, {precision}"
    mask = dict.fromkeys(("segment", "answer", "position"), place)
    report(name, jax.jit(both), shape(heads), shape(kv_heads), shape(kv_heads), shape(heads), mask)


def step(devices) -> None:
  """A whole training step of DPO, the reference live, 4 rows of 1,024 tokens a group, with the kernels and without."""
  rule = make_optimizer(OptimizerSettings(), 100).in_place()
  objective = Preference(LanguageModel(SMOLLM2, precision="bfloat16"))
  batch = pack([], BatchShape(groups=8, rows=4, length=1024, scored=640, examples=16, answers=2))
  params = jax.eval_shape(objective.model.init, jax.random.key(0))
  state = jax.eval_shape(lambda params: new_state(params, rule), params)
  hyper = {name: np.float32(1) for name in ("learning_rate", "beta", "label_smoothing")}

  def placed(tree, shardings):
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)

  dispatch = attention_module._dispatch
  for axes in (dict(data=1), dict(data=1, fsdp=4)):
    mesh = mesh_of(devices, **axes)
    arguments = (
      placed(state, state_shardings(mesh, state, objective.parameters)),
      placed(params, state_shardings(mesh, params, objective.parameters)),
      placed(batch, batch_shardings(mesh, batch)),
      placed(hyper, jax.tree.map(lambda _, mesh=mesh: replicated(mesh), hyper)),
    )
    for name, choose in (("kernels", dispatch), ("XLA", functools.partial(_never, dispatch))):
      attention_module._dispatch = choose
      make_train_step.cache_clear()
      report(f"SmolLM2-135M, {axes}, {name}", make_train_step(objective, rule, mesh), *arguments)
  attention_module._dispatch = dispatch


def _never(dispatch, *given):
  """What `_dispatch` returns where there is no kernel."""
  return dispatch(*given).keywords["default"]


def topology_of(platform: str, name: str):
  """The devices to compile for."""
  if platform == "tpu":
    return topologies.get_topology_desc(name, platform="tpu").devices
  tools = importlib.util.find_spec("nvidia")
  if tools is not None and tools.submodule_search_locations:
    for folder in ("cuda_nvcc", "cu13"):  # of CUDA 12's package, and of 13's
      os.environ["PATH"] = f"{tools.submodule_search_locations[0]}/{folder}/bin:" + os.environ["PATH"]
  cores, of_core, of_program, memory, bandwidth = GPUS[name]
  major, minor = name.split(".")
  target = f"""
    gpu_device_info {{
      cuda_compute_capability {{ major: {major} minor: {minor} }} core_count: {cores} fpus_per_core: 64 clock_rate_ghz: 1.5
      threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
      block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
      registers_per_core_limit: 65536 registers_per_block_limit: 65536
      shared_memory_per_block: 49152 shared_memory_per_core: {of_core * 1024} shared_memory_per_block_optin: {of_program * 1024}
      device_memory_size: {memory * 10**9} memory_bandwidth: {int(bandwidth * 10**12)} l2_cache_size: 41943040
    }}
    platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 8 }} device_description_str: "{name}" """
  return topologies.get_topology_desc("", platform="cuda", target_config=target, topology="1x1x4").devices


if __name__ == "__main__":
  parts = dict(attention=attention, step=step)
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("part", nargs="?", choices=parts)
  parser.add_argument("--platform", choices=("tpu", "cuda"), default="tpu")
  parser.add_argument("--topology", help="of TPUs, such as v5e:2x2; of GPUs the compute capability")
  options = parser.parse_args()
  options.topology = options.topology or {"tpu": "v5e:2x2", "cuda": "8.0"}[options.platform]
  if options.platform == "cuda" and options.topology not in GPUS:
    parser.error(f"--topology={options.topology}: known compute capabilities are {', '.join(GPUS)}")
  topology = topology_of(options.platform, options.topology)
  for part in [options.part] if options.part else parts:
    print(f"{part}, {options.platform} {options.topology}: {parts[part].__doc__}")
    parts[part](topology)
