"""Rows in memory, and files of rows."""

import bz2
import csv
import gzip
import io
import json
import math
from typing import Any

import numpy as np
import pyarrow
from pyarrow import parquet

from dpojax.data.formats import FORMATS
from dpojax.types import Answers
from tests.fuzz.cases import FOLDER, LOOP, MISSING, Case
from tests.fuzz.mutate import DEEP, DIGITS, dumped, mutated_bytes, mutated_json, mutated_text, mutated_value, pick

USER, YES, NO = (
  {"role": r, "content": c} for r, c in (("user", "is my parcel"), ("assistant", "yes"), ("assistant", "no"))
)
HH = "\n\nHuman: is my parcel\n\nAssistant:"
ROWS: dict[str, dict[str, Any]] = {
  "explicit": {"prompt": "is my parcel", "chosen": " yes", "rejected": " sorry", "score_chosen": 2.0},
  "implicit": {"chosen": "the parcel is yes", "rejected": "the parcel is sorry"},
  "conversational": {"prompt": [USER], "chosen": [YES], "rejected": [NO]},
  "hh": {"chosen": HH + " yes", "rejected": HH + " sorry"},
  "shp": {"history": "is my", "human_ref_A": "sorry", "human_ref_B": "yes", "labels": 0, "score_A": 2},
  "ultrafeedback": {"prompt": "is my parcel", "chosen": [USER, YES], "rejected": [USER, NO], "messages": [USER, YES]},
  "pku_safe_rlhf": {"prompt": "is", "response_0": "sorry", "response_1": "yes", "better_response_id": 1},
  "nectar": {"prompt": HH, "answers": [{"answer": "sorry", "rank": 2.0}, {"answer": "yes", "rank": 1.0}]},
  "ranked": {"prompt": "is my", "answers": ["yes", "sorry", "we"], "rewards": [2.0, 1.0, 0.5]},
  "sampled": {"prompt": "is my", "samples": [{"text": "yes", "ended": "eos"}, {"text": "we", "ended": "length"}]},
  "rewardbench": {
    "prompt": "is my parcel",
    "chosen": "yes",
    "rejected": "sorry",
    "subset": "a",
    "chosen_model": "x",
    "rejected_model": "y",
  },
  "rewardbench_v2": {
    "prompt": "is my parcel",
    "chosen": ["yes"],
    "rejected": ["sorry", "we"],
    "subset": "Ties",
    "id": "ref:1",
    "num_correct": 1,
  },
  "unpaired": {"prompt": "is my parcel", "completion": "yes", "label": True},
  "completion": {"prompt": "is my parcel", "completion": [YES]},
  "chat": {"messages": [USER, YES, USER, NO]},
  "text": {"text": "is my parcel yes"},
  "beginning": {"text": "is my parcel yes we will be calm"},
  "pretokenised": {"prompt_ids": [1, 2], "chosen_ids": [3, 4], "rejected_ids": [5, 0]},
  "pretokenised, ranked": {"prompt_ids": [1, 2], "answers_ids": [[3, 4], [5]]},
  "ids of one": {"prompt_ids": [1, 2], "completion_ids": [3, 4]},
  "tools": {
    "messages": [
      USER,
      {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]},
      {"role": "tool", "content": "yes"},
      YES,
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
  },
  "sharegpt": {"conversations": [{"from": "human", "value": "is my"}, {"from": "gpt", "value": "yes"}]},
}
PYTHON = (
  "b'x'",
  "nan",
  "inf",
  "{1, 2}",
  "(1, 2)",
  "1j",
  "np.float32(1)",
  "np.zeros(3)",
  "np.array('x')",
  "object",
  "...",
)


def mutated_rows(rng) -> tuple[str, list[dict[str, Any]], str]:
  """(format, rows of which one or two are changed, what was done)."""
  name = pick(rng, list(ROWS))
  row = ROWS[name]
  changed, kind = mutated_value(row, rng)
  if rng.random() < 0.3 and isinstance(changed, dict):
    changed, _ = mutated_value(changed, rng)
  if not isinstance(changed, dict):
    changed = {"row": changed}
  if rng.random() < 0.1:
    return name, [changed], kind
  other = ROWS[pick(rng, list(ROWS))] if rng.random() < 0.1 else row
  return name, [row, changed, other], kind


def rows_case(rng) -> Case:
  """Rows in a program: what JSON holds, and what only Python does."""
  name, rows, kind = mutated_rows(rng)
  text = repr(rows).replace(repr(DEEP), "(lambda x: [x := [x] for _ in range(5000)][-1])(1)")
  text = text.replace(repr(DIGITS), "10 ** 5000")
  if rng.random() < 0.25:
    found = [value for value in rows[0].values()] or [None]
    text, kind = _compiling(text.replace(repr(pick(rng, found)), pick(rng, PYTHON)), text), "Python's"
  elif rng.random() < 0.05:
    text, kind = (
      pick(rng, ["[]", "[None]", "[[]]", "[{}]", "[{}, {}]", "[{1: 2}]", "['x']", "{}", "iter([{'text': 'is'}])"]),
      ("no rows"),
    )
  form = pick(rng, ["auto", "auto", name if name in FORMATS else "auto", pick(rng, list(FORMATS))])
  options = [form, pick(rng, [a.name for a in Answers]), pick(rng, ["none"] * 9 + ["auto"]), "truncate_left"]
  options[-1] = pick(rng, ["drop", "truncate_left", "truncate_right"])
  return Case("rows", kind, ["python", "rows", "rows.py", *options], {"rows.py": f"ROWS = {text}\n".encode()})


def _compiling(text: str, otherwise: str) -> str:
  """The text of the rows, where Python makes rows of it."""
  try:
    eval(text, {"nan": math.nan, "inf": math.inf, "np": np})
  except Exception:
    return otherwise
  return text


def as_csv(rows: list[dict[str, Any]], delimiter: str = ",") -> str:
  out = io.StringIO()
  names = list(dict.fromkeys(name for row in rows for name in row))
  writer = csv.writer(out, delimiter=delimiter)
  writer.writerow(names)
  for row in rows:
    cells = [row.get(name, "") for name in names]
    writer.writerow([cell if isinstance(cell, str | int | float | None) else dumped(cell) for cell in cells])
  return out.getvalue()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
  out = io.BytesIO()
  parquet.write_table(pyarrow.Table.from_pylist(rows), out)
  return out.getvalue()


def file_of(rng) -> tuple[str, bytes, str]:
  """(name, content, what was done): a file of rows, damaged in its values or in its bytes."""
  name, rows, kind = mutated_rows(rng)
  good = [ROWS[name]] * 3
  suffix = pick(rng, [".jsonl", ".jsonl", ".json", ".csv", ".parquet"])
  if rng.random() < 0.6:
    if suffix == ".jsonl":
      content = "".join(dumped(row) + "\n" for row in rows).encode()
      if rng.random() < 0.3:
        line, kind = mutated_json(ROWS[name], rng)
        content += line + b"\n"
    elif suffix == ".json":
      content = dumped(rows).encode()
    elif suffix == ".csv":
      content = as_csv(rows).encode("utf-8", "surrogatepass")
      if rng.random() < 0.4:
        text, kind = mutated_text(as_csv(good), rng)
        content = text.encode("utf-8", "surrogatepass")
    else:
      try:
        content = as_parquet(rows)
      except (pyarrow.ArrowException, UnicodeEncodeError, OverflowError, RecursionError):  # the writer refuses it
        content, kind = mutated_bytes(as_parquet(good), rng)
  else:
    made = {
      ".jsonl": "".join(json.dumps(row) + "\n" for row in good).encode(),
      ".json": json.dumps(good).encode(),
      ".csv": as_csv(good).encode(),
      ".parquet": as_parquet(good),
    }
    content, kind = mutated_bytes(made[suffix], rng)
  return f"data{suffix}", content, kind


def wrapped(name: str, content: bytes, kind: str, rng) -> tuple[str, bytes, str]:
  """Perhaps packed by gzip, which may be damaged too, or under the name of another kind of file."""
  drawn = rng.random()
  if drawn < 0.1:
    return f"{name}.gz", gzip.compress(content, mtime=0), kind
  if drawn < 0.17:
    packed, how = mutated_bytes(gzip.compress(content, 0, mtime=0), rng)
    return f"{name}.gz", packed, f"gz {how}"
  if drawn < 0.2:
    return f"{name}{pick(rng, ['.gz', '.bz2', '.zst'])}", content, "not packed"
  if drawn < 0.22:
    return f"{name}.bz2", bz2.compress(content), "bz2"
  if drawn < 0.27:
    return f"data{pick(rng, ['.csv', '.jsonl', '.json', '.parquet', '.txt', '', '.tsv'])}", content, "other name"
  return name, content, kind


def files_case(rng) -> Case:
  """A file of rows, read by `data inspect`, `score`, `eval` or `sample`."""
  name, content, kind = wrapped(*file_of(rng), rng)
  files: dict[str, bytes | str] = {name: content}
  if rng.random() < 0.03:
    kind = pick(rng, [MISSING, FOLDER, LOOP])
    files = {name: kind}
  data, template = f"--data={name}", pick(rng, ["--template=none", "--template=auto"])
  drawn = rng.random()
  if drawn < 0.8:
    recipe = pick(rng, [["--recipe=sft"], ["--recipe=preference"], ["--recipe=reward_model"], ["--loss.name=kto"]])
    command = ["data", "inspect", data, "--batch.row_length=40", template, *recipe]
  elif drawn < 0.9:
    command = ["score", data, "--out=out.jsonl", template, "--row-length=40"]
  elif drawn < 0.94:
    command = ["eval", data, "--out=out", template, "--row-length=40", "--score=sum"]
  elif drawn < 0.95:
    command = ["sample", data, "--out=out.jsonl", template, "--max-tokens=4", "--rows=4", "--max-prompt=4"]
  else:
    command = ["score", data, "--out=out.jsonl", "--rewards=length", template]
  words = [*command] if "--rewards=length" in command else [*command, "--model=model"]
  return Case("files", kind, words, files, ("model",))
