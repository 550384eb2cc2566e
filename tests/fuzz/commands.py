"""Command lines of every sub-command: options dropped, doubled, unknown, of odd values, of other commands."""

import json

from dpojax.cli.main import COMMANDS
from tests.fuzz.cases import FOLDER, LOOP, MISSING, Case
from tests.fuzz.configs import ONE
from tests.fuzz.mutate import odd_word, pick
from tests.fuzz.rows import ROWS

# Options of each command with values that are fine, or None for a flag.
VALID: dict[str, dict[str, list[str | None]]] = {
  "train": {
    "config": ["config.py"],
    "workdir": ["w"],
    "dry-run": [None],
    "only": ["x"],
    "until": ["x"],
    "jobs": ["1", "2"],
    "allow-config-change": [None],
    "config.loss.beta": ["0.1"],
  },
  "sweep": {"config": ["config.py"], "workdir": ["w"], "grid": ["loss.beta=0.1,0.2"], "config.seed": ["1"]},
  "score": {
    "model": ["model"],
    "data": ["data.jsonl"],
    "out": ["out.jsonl"],
    "rewards": ["length", "rule:x", "model:model", "true", "python:x.y:z", "length*0.1,starts_with:x"],
    "rows": ["2"],
    "row-length": ["40"],
    "precision": ["float32"],
    "format": ["auto", "explicit"],
    "columns": ["prompt=prompt"],
    "template": ["none"],
    "after-eos": ["error"],
    "max-prompt": ["9"],
    "max-answer": ["9"],
    "max-example": ["40"],
    "overlong": ["drop"],
    "limit": ["2"],
  },
  "eval": {
    "model": ["model"],
    "data": ["data.jsonl"],
    "out": ["out"],
    "score": ["sum", "mean", "implicit", "reward"],
    "reference": ["model"],
    "beta": ["0.1"],
    "subset": ["subset"],
    "length-within": ["0.1"],
    "rows": ["2"],
    "row-length": ["40"],
    "template": ["none"],
  },
  "sample": {
    "model": ["model"],
    "prompt": ["is my"],
    "prompt-file": ["prompts.txt"],
    "data": ["data.jsonl", "prompts.txt"],
    "out": ["out.jsonl"],
    "max-tokens": ["4"],
    "samples": ["1", "2"],
    "greedy": [None],
    "temperature": ["0.5"],
    "top-k": ["3"],
    "top-p": ["0.9"],
    "stop": ["yes"],
    "seed": ["1"],
    "rows": ["2"],
    "raw": [None],
  },
  "export": {
    "workdir": ["w"],
    "out": ["out"],
    "step": ["1"],
    "max-shard-size": ["5GB"],
    "dtype": ["bfloat16"],
    "critic": [None],
    "head": ["0"],
    "pad-token": ["x"],
  },
  "data": {
    "data": ["data.jsonl"],
    "model": ["model"],
    "rows": ["1"],
    "colour": ["always"],
    "batch.row_length": ["40"],
    "batch.size": ["2"],
    "template": ["none"],
    "limit": ["2"],
    "config": ["config.py"],
    "stage": ["x"],
    "format": ["explicit"],
    "eval_fraction": ["0.5"],
    "recipe": ["sft", "reward_model"],
    "loss.name": ["dpo", "kto"],
  },
  "report": {"out": ["page"], "reward": ["true"], "title": ["x"]},
  "compare": {},
  "bt": {
    "a": ["a"],
    "b": ["b"],
    "outcome": ["outcome"],
    "ties": ["half"],
    "scale": ["400"],
    "out": ["x.json"],
    "seed": ["1"],
  },
}
FIRST = {"data": ["inspect"], "report": ["runs"], "compare": ["a", "b"], "bt": ["games.csv"]}
NEEDED = {
  "train": ["config", "workdir", "dry-run"],
  "sweep": ["config", "workdir"],
  "score": ["model", "data", "out", "template"],
  "eval": ["model", "data", "out", "template", "score"],
  "sample": ["model", "prompt", "max-tokens", "rows"],
  "export": ["workdir", "out"],
  "data": ["data", "model", "batch.row_length"],
  "bt": ["a", "b", "outcome", "ties"],
}
FILES: dict[str, bytes | str] = {
  "config.py": ONE.encode(),
  "data.jsonl": "".join(
    json.dumps(ROWS["explicit"] | {"prompt": p}) + "\n" for p in ("is my", "the", "will we")
  ).encode(),
  "prompts.txt": b"is my\n\nthe parcel\n",
  "games.csv": b"a,b,outcome\nx,y,a\ny,x,a\nx,y,tie\n",
}

WRITTEN = ("w", "out", "out.jsonl", "x.json", "runs", "a", "b", "page", "model/config.json", "model", "templates")


def commands_case(rng) -> Case:
  """A command whose words are not what they should be."""
  name = pick(rng, list(VALID))
  options = VALID[name]
  given = {option: options[option][0] for option in NEEDED.get(name, [])}
  for _ in range(int(pick(rng, [0, 1, 1, 2]))):
    if options:
      option = pick(rng, list(options))
      given[option] = pick(rng, options[option])
  kind = pick(rng, ["odd value"] * 8 + ["left out", "unknown", "twice", "of another", "apart", "flag", "word", "file"])
  words = [f"--{option}" if value is None else f"--{option}={value}" for option, value in given.items()]
  first = list(FIRST.get(name, []))
  files = dict(FILES)
  if kind == "odd value" and options:
    option = pick(rng, list(options))
    words = [word for word in words if word.partition("=")[0] != f"--{option}"] + [
      f"--{option}={odd_word(rng, option)}"
    ]
  elif kind == "left out" and words:
    words.remove(pick(rng, words))
  elif kind == "twice" and words:
    words.append(pick(rng, words))
  elif kind == "of another":
    other = VALID[pick(rng, list(VALID))]
    option = pick(rng, list(other) or ["x"])
    words.append(f"--{option}={pick(rng, other.get(option) or ['1'])}")
  elif kind == "apart" and words:
    word = pick(rng, words)
    words = [w for w in words if w != word] + word.split("=", 1)
  elif kind == "flag" and words:
    word = pick(rng, words)
    words = [w for w in words if w != word] + [word.split("=")[0]]
  elif kind == "file":
    files[pick(rng, [*FILES, *WRITTEN])] = pick(rng, [MISSING, FOLDER, LOOP, b""])
  elif kind == "word":
    place = pick(rng, ["name", "first", "last"])
    odd = odd_word(rng)
    if place == "name":
      name = pick(rng, [odd, name + "s", name.upper(), "--version", "-h", "help", ""])
    elif place == "first":
      first = pick(rng, [[odd], [*first, odd], [odd, *first], []])
    else:
      words.append(odd)
  else:
    words.append(pick(rng, [f"--{odd_word(rng)}", f"-{odd_word(rng)}", "--help", "-h", "--modle=x", "--"]))
  if name in ("train",) and "--dry-run" not in words:
    words.append("--dry-run")
  seeds = ("model",) if any("model" in word for word in words) else ()
  about = name if name in COMMANDS else "unknown command"
  return Case("commands", f"{about}: {kind}", [name, *first, *words], files, seeds)
