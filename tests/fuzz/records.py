"""Records inside workdirs, which commands read again: a user's editor, disk or copy may have damaged them."""

import json

from tests.fuzz.cases import FOLDER, LOOP, MISSING, Case
from tests.fuzz.mutate import dumped, mutated_bytes, mutated_json, mutated_value, pick
from tests.fuzz.seeds import Seeds

READ = (
  "stage.json",
  "model.json",
  "environment.json",
  "metrics.jsonl",
  "comparison.json",
  "answers.jsonl",
  "result.json",
)
LOCK = b'{"host": "elsewhere", "process": 4711, "started": 1.5, "since": "2026-11-27 08:01:12"}'


def damaged(name: str, content: bytes, rng) -> tuple[bytes | str, str]:
  """A record with something wrong in it."""
  if rng.random() < 0.06:
    place = pick(rng, [MISSING, FOLDER, LOOP])
    return place, place
  if name.endswith(".jsonl"):
    lines = content.split(b"\n")
    i = int(rng.integers(len(lines)))
    if rng.random() < 0.8 and lines[i].strip():
      value, kind = mutated_value(json.loads(lines[i]), rng)
      lines[i] = dumped(value).encode()
      return b"\n".join(lines), kind
    return mutated_bytes(content, rng)
  return mutated_json(json.loads(content), rng) if name.endswith(".json") else mutated_bytes(content, rng)


def records_case(rng, seeds: Seeds) -> Case:
  """A record of a run or of an experiment's stages, damaged, and a command that reads it."""
  if rng.random() < 0.45:
    files = seeds.files("stages")
    named = [name for name in files if name.rpartition("/")[2] in READ or name.endswith((".npz", ".jsonl"))]
    last = pick(rng, sorted({name.rpartition("/")[2] for name in named}))
    name = pick(rng, [name for name in named if name.endswith(last)])
    command = pick(
      rng,
      [
        ["python", "page", "stages"],
        ["python", "page", "stages"],
        ["compare", "stages/compare:sft", "stages/compare:dpo_0.1"],
        ["compare", "stages/dpo_0.1", "stages/ppo_2"],
      ],
    )
    content, kind = damaged(name, files[name], rng)
    return Case(
      "records", f"{last if 'step_' not in last else 'samples'} {kind}", command, {name: content}, ("stages",)
    )
  files = seeds.files("run")
  tops = [name for name in files if name.startswith("run/workdir/") and name.endswith((".json", ".jsonl"))]
  inner = [
    name for name in files if "/checkpoints/" in name and name.endswith(("_METADATA", "json", "txt", "_sharding"))
  ]
  weights = [name for name in files if "/checkpoints/" in name]
  name = pick(rng, tops * 3 + inner + weights)
  content, kind = damaged(name, files[name], rng)
  if rng.random() < 0.06:
    name, (content, kind) = "run/workdir/lock.json", mutated_json(json.loads(LOCK), rng)
  config = ["--config=run/config.py", "--workdir=run/workdir"]
  command = pick(
    rng,
    [
      ["export", "--workdir=run/workdir", "--out=out"],
      ["export", "--workdir=run/workdir", "--out=out", "--step=2"],
      ["train", *config, "--dry-run"],
      ["train", *config],
      ["python", "model", "run/workdir"],
      ["python", "page", "run"],
      ["compare", "run/workdir", "run/workdir"],
      ["data", "inspect", "--data=run/pairs.jsonl.gz", "--model=run/workdir", "--batch.row_length=48"],
    ],
  )
  if rng.random() < 0.04:
    command = pick(
      rng,
      [
        ["score", "--model=run/workdir", "--data=run/pairs.jsonl.gz", "--out=out.jsonl"],
        ["eval", "--model=run/workdir", "--data=run/pairs.jsonl.gz", "--out=out"],
        ["sample", "--model=run/workdir", "--prompt=word1 word2", "--max-tokens=4", "--rows=1"],
      ],
    )
  what = name.rpartition("/")[2] if name in tops or "lock" in name else "checkpoint"
  return Case("records", f"{what if 'step_' not in what else 'samples'} {kind}", command, {name: content}, ("run",))
