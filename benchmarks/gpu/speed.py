"""Speed and memory on one device, for `gpu_check.py`: products, copies, attention, DPO steps of dpojax and of TRL."""

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu.rows import read_ids, read_rows
from benchmarks.trl_side import LEARNING_RATE, num_tokens


@dataclasses.dataclass(frozen=True)
class Shape:
  """A model's sizes, and how a step of dpojax packs pairs for it."""

  vocabulary: int
  hidden: int
  layers: int
  heads: int
  kv_heads: int
  ffn: int
  theta: float
  pairs: int  # a step
  rows: int  # of a group
  row_length: int
  remat: str
  trl: tuple[str, ...]  # SETTING@PAIRS of TRL, from the smallest step

  def config(self) -> Any:
    from dpojax.models.config import ModelConfig

    names = ("hidden", "layers", "heads", "kv_heads", "ffn")
    sizes = {name: getattr(self, name) for name in names}
    return ModelConfig(vocab_size=self.vocabulary, rope_theta=self.theta, max_positions=4096, **sizes)


PAIRS = 512  # of the file of rows
SHAPES = {
  "SmolLM2-135M": Shape(
    *(49152, 576, 30, 9, 3, 1536, 1e5),
    **dict(pairs=128, rows=16, row_length=2048, remat="dots"),
    trl=("autocast@8", "autocast@32"),
  ),
  # Qwen2.5-1.5B's sizes in Llama's form: no biases
  "1.5B": Shape(
    *(151936, 1536, 28, 12, 2, 8960, 1e6),
    **dict(pairs=64, rows=8, row_length=2048, remat="dots"),
    trl=("autocast@8", "autocast@16"),
  ),
  "tiny": Shape(
    *(256, 32, 2, 2, 1, 48, 1e4), **dict(pairs=8, rows=2, row_length=1024, remat="dots"), trl=("autocast@2",)
  ),
}


def device() -> Any:
  import jax

  return jax.devices()[0]


def rate_of(call: Callable[[], Any], seconds: float = 0.5) -> list[float]:
  """Seconds of single calls, after two that warm up; several are dispatched before one waits."""
  import jax

  for _ in range(2):
    jax.block_until_ready(call())
  started = time.perf_counter()
  jax.block_until_ready(call())
  number = max(1, min(50, int(seconds / 5 / max(time.perf_counter() - started, 1e-6))))
  times = []
  for _ in range(5):
    started = time.perf_counter()
    for _ in range(number):
      out = call()
    jax.block_until_ready(out)
    times.append((time.perf_counter() - started) / number)
  return times


def ceilings(size: int = 8192, megabytes: int = 2048) -> dict:
  """Operations a second of a bfloat16 product of random matrices, and bytes a second read and written by a copy."""
  import jax
  import jax.numpy as jnp

  keys = jax.random.split(jax.random.key(0), 2)
  a, b = (jax.random.normal(key, (size, size), jnp.bfloat16) for key in keys)
  product = jax.jit(lambda a, b: a @ b)
  copy = jax.jit(lambda x: x + 1)
  block = jnp.ones((megabytes * 2**20 // 4,), jnp.float32)
  return {
    "flops": 2.0 * size**3 / statistics.median(rate_of(lambda: product(a, b))),
    "bytes": 2.0 * block.nbytes / statistics.median(rate_of(lambda: copy(block))),
  }


def build(shape: Shape) -> tuple[Any, Any]:
  """(trainer of DPO in bfloat16 with a live reference, its batches)."""
  import jax

  from dpojax.config.schema import BatchSettings, OptimizerSettings, ParallelSettings
  from dpojax.data.batches import Batches
  from dpojax.models.language_model import LanguageModel
  from dpojax.objectives.preference import Preference
  from dpojax.parallel import make_mesh
  from dpojax.training.optimizer import make_optimizer
  from dpojax.training.trainer import Trainer

  config = shape.config()
  dataset = read_rows(PAIRS, vocabulary=config.vocab_size)
  batches = Batches(dataset, BatchSettings(size=shape.pairs, rows=shape.rows, row_length=shape.row_length))
  model = LanguageModel(config, precision="bfloat16", remat=shape.remat)
  params = jax.jit(model.init)(jax.random.key(0))
  settings = OptimizerSettings(learning_rate=LEARNING_RATE, schedule="constant", warmup_steps=0)
  trainer = Trainer(
    Preference(model),
    make_optimizer(settings, 1000),
    params,
    reference_params=params,
    hyper={"beta": 0.1, "label_smoothing": 0.0},
    mesh=make_mesh(ParallelSettings(data=1), [device()]),
  )
  return trainer, batches


def dpojax_step(name: str, **changes) -> dict:
  """DPO steps through the trainer's own loop: time, memory, operations."""
  import jax

  from benchmarks.counting import step_operations
  from benchmarks.timing import planned_bytes  # behind jax: where none chose a platform, it chooses the CPU
  from dpojax.training.step import place_hyper
  from dpojax.training.trainer import one_step_late

  shape = dataclasses.replace(SHAPES[name], **changes)
  trainer, batches = build(shape)
  host = batches(0)
  placed = trainer.place(host)
  started = time.perf_counter()
  hyper = place_hyper(trainer.hyper, trainer.mesh)
  compiled = trainer._step.lower(trainer.state, trainer.reference_params, placed, hyper).compile()
  compiling = time.perf_counter() - started
  losses = [metrics["loss"] for _, metrics in one_step_late(trainer.steps(batches, 3))]

  def one_step() -> float:
    started = time.perf_counter()
    jax.block_until_ready(trainer.take_step(placed))
    return time.perf_counter() - started

  number = max(4, min(24, int(5 / one_step())))
  taken = []
  started = time.perf_counter()
  for step, _metrics in one_step_late(trainer.steps(batches, int(trainer.state.step) + number)):
    taken.append(step - 1)
  seconds = time.perf_counter() - started
  operations = sum(step_operations(shape.config(), batches(step), live_reference=True) for step in taken)
  alone = [one_step() for _ in range(5)]
  return {
    "side": "dpojax",
    "model": name,
    "pairs": shape.pairs,
    "rows": f"{shape.rows} x {shape.row_length}",
    "remat": shape.remat,
    "tokens_per_second": sum(map(batches.num_tokens, taken)) / seconds,
    "step_seconds": seconds / number,
    "device_step_seconds": [min(alone), statistics.median(alone), max(alone)],
    "flops_per_second": operations / seconds,
    "peak_bytes": (device().memory_stats() or {}).get("peak_bytes_in_use", 0),
    "planned_bytes": int(planned_bytes(compiled.memory_analysis())),
    "groups": int(host.num_groups),
    "fill": batches.fill(4).groups,
    "compile_seconds": compiling,
    "first_loss": losses[0],
    "steps": number,
  }


def trl_step(name: str, run: str, pairs: int = 128) -> dict:
  """TRL's DPO of the same sizes, pairs and tokens; `run` is SETTING@PAIRS_A_STEP."""
  import torch
  import transformers
  from tokenizers import Tokenizer
  from tokenizers.models import WordLevel

  from benchmarks.trl_side import train

  shape = SHAPES[name]
  setting, _, batch = run.partition("@")
  number = max(2 * int(batch), min(pairs, 8 * int(batch)))
  rows = [{key: [i % shape.vocabulary for i in ids] for key, ids in row.items()} for row in read_ids(number)]
  config = transformers.LlamaConfig(
    vocab_size=shape.vocabulary,
    hidden_size=shape.hidden,
    num_hidden_layers=shape.layers,
    num_attention_heads=shape.heads,
    num_key_value_heads=shape.kv_heads,
    intermediate_size=shape.ffn,
    rope_theta=shape.theta,
    max_position_embeddings=4096,
    tie_word_embeddings=True,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=2,
  )
  with tempfile.TemporaryDirectory() as folder:
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
      model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(folder)
    del model
    words = Tokenizer(WordLevel({f"t{i}": i for i in range(shape.vocabulary)}, unk_token="t0"))
    tokenizer = transformers.PreTrainedTokenizerFast(
      tokenizer_object=words, pad_token="t2", eos_token="t2", bos_token="t1"
    )
    tokenizer.save_pretrained(folder)
    if torch.cuda.is_available():
      torch.cuda.empty_cache()
      torch.cuda.reset_peak_memory_stats()
    found = train(Path(folder), rows, setting=setting, batch=int(batch))
  return {
    "side": f"TRL {setting}",
    "model": name,
    "pairs": int(batch),
    "tokens_per_second": sum(map(num_tokens, rows)) / found["seconds"],
    "step_seconds": found["seconds"] * int(batch) / len(rows),
    "peak_bytes": found.get("peak_bytes", 0),
  }


def attention_speed(name: str) -> dict:
  """One layer's attention with its gradient on packed rows: kernels, block form, and XLA's and cuDNN's own with the mask."""
  import jax
  import jax.numpy as jnp

  from benchmarks.counting import attention_floor, visible_scores
  from dpojax.config.schema import BatchSettings
  from dpojax.data.batches import Batches
  from dpojax.ops.attention import packed_attention
  from dpojax.ops.attention_blocks import Places, sees
  from dpojax.ops.attention_gpu import without_kernels

  shape = SHAPES[name]
  config = shape.config()
  batches = Batches(read_rows(PAIRS, vocabulary=64), BatchSettings(shape.pairs, shape.rows, shape.row_length))
  batch = batches(0)
  places = {x: jnp.asarray(getattr(batch, x)[0]) for x in ("segment", "answer", "position")}
  keys = jax.random.split(jax.random.key(0), 4)
  sizes = (config.heads, config.kv_heads, config.kv_heads, config.heads)
  of = lambda key, heads: jax.random.normal(key, (shape.rows, shape.row_length, heads, config.head_dim), jnp.float32)  # noqa: E731
  q, k, v, toward = (of(key, heads) for key, heads in zip(keys, sizes, strict=True))

  def ours(q, k, v):
    return packed_attention(q, k, v, **places, precision="bfloat16")

  def dense(implementation):
    index = jnp.broadcast_to(jnp.arange(shape.row_length, dtype=jnp.int32), places["segment"].shape)
    tokens = Places(**places, index=index)
    query, key = Places(*(x[:, :, None] for x in tokens)), Places(*(x[:, None] for x in tokens))
    mask = sees(query, key, None)

    def attend(q, k, v):
      q, k, v = (x.astype(jnp.bfloat16) for x in (q, k, v))
      out = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None], implementation=implementation)
      return out.astype(jnp.float32)

    return attend

  def timed(attend):
    def both(q, k, v, toward):
      out, pull_back = jax.vjp(attend, q, k, v)
      return (out, *pull_back(toward))

    call = jax.jit(both).lower(q, k, v, toward).compile()
    return statistics.median(rate_of(lambda: call(q, k, v, toward), 0.25))

  found: dict[str, Any] = {}
  for label, attend in (("kernels", ours), ("block form", ours), ("XLA", dense("xla")), ("cuDNN", dense("cudnn"))):
    try:
      if label == "block form":
        with without_kernels():
          found[label] = timed(lambda *given: ours(*given))
      else:
        found[label] = timed(attend)
    except Exception as error:  # a path that this machine does not have
      found[label] = f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
  visible = visible_scores(places["segment"], places["answer"])
  floor = attention_floor(visible, config.heads, config.head_dim)["gradient"]["operations"]
  return {"model": name, "seconds": found, "operations": floor}


def profiled(name: str, **changes) -> str:
  """The longest kernels of one step, by name: milliseconds, calls."""
  import collections

  import jax

  trainer, batches = build(dataclasses.replace(SHAPES[name], **changes))
  placed = trainer.place(batches(0))
  for _ in range(2):
    jax.block_until_ready(trainer.take_step(placed))
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      jax.block_until_ready(trainer.take_step(placed))
    (file,) = Path(folder).rglob("*.xplane.pb")
    data = jax.profiler.ProfileData.from_file(str(file))
  lines = []
  for plane in data.planes:
    for line in plane.lines:
      total: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0])
      for event in line.events:
        total[event.name][0] += event.duration_ns / 1e6
        total[event.name][1] += 1
      busy = sum(t for t, _ in total.values())
      lines.append(f"{plane.name} / {line.name}: {busy:.1f} ms in {sum(n for _, n in total.values())} events")
      if "GPU" in plane.name:
        longest = sorted(total.items(), key=lambda item: -item[1][0])[:45]
        lines += [f"  {t:9.2f} ms {n:6d} {event[:110]}" for event, (t, n) in longest]
  return "\n".join(lines)


def run(part: str, argument: str, options: dict) -> dict:
  """One part by name, as `gpu_check.py` calls it in a process of its own."""
  if part == "ceilings":
    return ceilings(**options)
  if part == "dpojax":
    return dpojax_step(argument, **options)
  if part == "trl":
    name, _, setting = argument.partition(":")
    return trl_step(name, setting)
  if part == "profile":
    return {"text": profiled(argument, **options)}
  return attention_speed(argument)
