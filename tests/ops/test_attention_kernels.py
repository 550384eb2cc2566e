"""The kernels for TPU and GPU, interpreted on the CPU; and that those for GPU become Triton's."""

import concurrent.futures
import functools
import os
import pathlib
import subprocess
import sys
import types
import warnings

import jax
import numpy as np
import pytest
from attention_rows import LAYOUTS, brute_force, draw, lay_out, naive, value_and_gradient

from dpojax.ops import attention, attention_gpu
from dpojax.ops.attention import packed_attention

DISPATCH = attention._dispatch
ROOT = pathlib.Path(__file__).parents[2]
BLOCK = 16
LONG_ANSWERS = lay_out([[(10, [40, 35]), (3, [20, 9])], [(50, [33, 17])]], 120)
# name -> (rows, window, key heads of 4 heads)
CASES = {
  "texts": (LAYOUTS["texts"], None, 2),
  "rankings, window": (LAYOUTS["rankings"], 4, 2),
  "long": (LAYOUTS["long"], None, 1),
  "answers longer than a block": (LONG_ANSWERS, None, 4),
  "answers longer than a block, window": (LONG_ANSWERS, 12, 2),
  "four answers": (lay_out([[(21, [18, 5, 30, 17])], [(3, [2, 9, 1, 4]), (18, [16, 16, 16, 1])]], 100), None, 2),
  "blocks end with examples": (lay_out([[(4, [6, 6])] * 3, [(16, [16, 16])], []], 48), None, 2),
  "empty": (lay_out([[], []], 40), None, 2),
}
# Tiles are met where an answer is longer than one, and where a block's second tile is nobody's.
TILED = ("answers longer than a block, window", "four answers", "empty")


KERNELS = ("tpu", "gpu", "gpu, two tiles a block")
RUNS = [(kernel, name) for kernel in KERNELS for name in (TILED if "tiles" in kernel else CASES)]


@pytest.fixture(params=KERNELS)
def interpreted(monkeypatch, request):
  """`packed_attention` runs the interpreted kernels on small blocks."""

  def always_kernel(blocks, on_tpu, on_gpu, width, block, window, precision):
    kernel = on_tpu if request.param == "tpu" else on_gpu
    return functools.partial(kernel, window=window, precision=precision, interpret=True)

  monkeypatch.setattr(attention, "BLOCK", BLOCK)
  monkeypatch.setattr(attention, "_dispatch", always_kernel)
  if "two tiles" in request.param:
    monkeypatch.setattr(attention_gpu, "TILE", BLOCK // 2)


@pytest.mark.sampled(5)
@pytest.mark.slow
@pytest.mark.usefixtures("float64", "interpreted")
@pytest.mark.parametrize(("interpreted", "name"), RUNS, indirect=["interpreted"])
def test_equals_brute_force_and_autodiff_of_the_formula(name):
  rows, window, kv_heads = CASES[name]
  arrays = draw(rows, kv_heads=kv_heads)
  toward = np.random.default_rng(1).normal(size=arrays[0].shape)
  masked = dict(**rows.arrays(), window=window)
  found = value_and_gradient(functools.partial(packed_attention, **masked, precision="float32"), arrays, toward)
  assert all(x.dtype == np.float64 for x in found)
  np.testing.assert_allclose(found[0], brute_force(*arrays, rows, window), atol=1e-13)
  expected = value_and_gradient(functools.partial(naive, **masked), arrays, toward)
  for a, b in zip(found[1:], expected[1:], strict=True):
    np.testing.assert_allclose(a, b, atol=1e-12)
  for x in found:
    assert np.all(x[rows.segment < 0] == 0)


@pytest.mark.sampled(2)
@pytest.mark.slow
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("precision,tolerance", [("float32", 1e-5), ("bfloat16", 5e-3)])
def test_equals_the_path_of_other_devices(precision, tolerance, monkeypatch):
  rows = LAYOUTS["long"]
  arrays = draw(rows, width=64, dtype=np.float32)
  toward = np.random.default_rng(1).normal(size=arrays[0].shape).astype(np.float32)
  function = functools.partial(packed_attention, **rows.arrays(), precision=precision)
  with monkeypatch.context() as patched:
    patched.setattr(attention, "_dispatch", DISPATCH)
    expected = value_and_gradient(function, arrays, toward)
  for a, b in zip(value_and_gradient(function, arrays, toward), expected, strict=True):
    assert a.dtype == np.float32
    assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)


@pytest.mark.sampled(1)
@pytest.mark.slow
@pytest.mark.usefixtures("float64", "interpreted")
def test_blocks_without_a_visible_pair_are_not_read():
  # Hidden keys have weight 0, and 0 * NaN would show. Blocks 1 and 2 hold the first answer only, block 4 its sibling.
  first, sibling = slice(BLOCK, 3 * BLOCK), slice(4 * BLOCK, 5 * BLOCK)
  assert set(LONG_ANSWERS.answer[0, first]) == {0}
  assert set(LONG_ANSWERS.answer[0, sibling]) == {1}
  q, k, v = draw(LONG_ANSWERS)
  attend = functools.partial(packed_attention, **LONG_ANSWERS.arrays(), precision="float32")
  toward, poison = np.ones(q.shape), np.zeros(q.shape)[:, :, :1, :1]
  poison[0, first] = np.nan
  out, dq, _, _ = value_and_gradient(attend, (q, k + poison, v + poison), toward)
  for x in (out, dq):
    assert np.all(np.isnan(x[0, first]))
    assert np.all(np.isfinite(x[0, sibling]))
  poison[0, first], poison[0, sibling] = 0, np.nan
  _, _, dk, dv = value_and_gradient(attend, (q, k, v), toward + poison)
  for x in (dk, dv):
    assert np.all(np.isnan(x[0, sibling]))
    assert np.all(np.isfinite(x[0, first]))


@pytest.mark.long
def test_rows_and_heads_lie_on_several_devices():
  flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
  environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
  command = [sys.executable, "-m", "tests.ops.kernel_on_devices"]
  done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
  assert done.returncode == 0, done.stderr


def lowered_for_a_gpu():
  """From jax 0.11 on Triton kernels are lowered for a kind of GPU, this machine's unless one is named."""
  device = jax.sharding.AbstractDevice("NVIDIA H100", None, "gpu")
  return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device))


@pytest.mark.slow
@pytest.mark.parametrize(
  "precision,width,window,kernels",
  [
    ("float32", 64, None, 3),
    ("bfloat16", 128, 40, 3),
    ("float32", 256, None, 3),
    ("bfloat16", 80, None, 0),
    ("float32", 8, None, 0),
  ],
)
def test_a_program_for_nvidia_gpus_has_triton_kernels_where_sizes_allow(precision, width, window, kernels):
  rows = lay_out([[(100, [40, 35])], [(150, [33, 17])]], 256)
  arrays = [x.astype(np.float32) for x in draw(rows, width=width)]
  attend = functools.partial(packed_attention, **rows.arrays(), precision=precision, window=window)
  gradient = jax.jit(jax.grad(lambda *arrays: attend(*arrays).sum(), argnums=(0, 1, 2)))
  with lowered_for_a_gpu():
    text = gradient.trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()
  assert text.count("__gpu$xla.gpu.triton") == kernels
  assert "__gpu$xla.gpu.triton" not in gradient.trace(*arrays).lower(lowering_platforms=("cpu",)).as_text()


def card(capability, kind="a card"):
  return types.SimpleNamespace(platform="gpu", compute_capability=capability, device_kind=kind)


@pytest.mark.parametrize(
  "capability,why",
  [
    ("7.0", "older than Ampere"),
    ("7.5", "older than Ampere"),
    ("8.0", ""),
    ("8.9", ""),
    ("9.0", ""),
    ("10.0", "newer than"),
    ("12.0", "newer than"),
    ("gfx942", ""),  # no NVIDIA GPU: it never meets these kernels
    ("12.0f", "not one that we can read"),
    ("", "not one that we can read"),
  ],
)
def test_cards_that_the_kernels_were_not_made_for_go_without_and_it_is_said_once(monkeypatch, capability, why):
  monkeypatch.setattr(jax, "local_devices", lambda: [card("8.0"), card(capability, "Tesla T4")])
  monkeypatch.setattr(attention_gpu, "_said", [])
  with warnings.catch_warnings(record=True) as said, concurrent.futures.ThreadPoolExecutor(8) as pool:
    warnings.simplefilter("always")
    assert list(pool.map(lambda _: attention_gpu.takes(64, 128), range(24))) == [not why] * 24
  assert len(said) == bool(why)
  if why:
    assert why in str(said[0].message)
    assert f"Tesla T4 (compute capability {capability})" in str(said[0].message)


@pytest.mark.slow
def test_without_kernels_a_program_for_a_gpu_has_none_and_gives_the_same():
  rows = lay_out([[(100, [40, 35])], [(150, [33, 17])]], 256)
  arrays = [x.astype(np.float32) for x in draw(rows, width=16)]

  def traced():
    # A new function each time: jit would find the program that it has.
    attend = lambda *x: packed_attention(*x, **rows.arrays(), precision="float32")  # noqa: E731
    return jax.jit(attend).trace(*arrays)

  with lowered_for_a_gpu():
    assert "__gpu$xla.gpu.triton" in traced().lower(lowering_platforms=("cuda",)).as_text()
    with attention_gpu.without_kernels():
      assert "__gpu$xla.gpu.triton" not in traced().lower(lowering_platforms=("cuda",)).as_text()
    assert "__gpu$xla.gpu.triton" in traced().lower(lowering_platforms=("cuda",)).as_text()
