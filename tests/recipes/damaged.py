"""An experiment, an export and a sweep made tiny, ways to damage one of their files, and the commands that read them.

One case damages one file and runs one command. It ends in one of four ways:

  named   the command says the file's name, or that of the checkpoint or store that the file is part of
  same    what the command writes and says is what it writes and says of undamaged files, byte for byte
  SILENT  it is something else, and no word of the file
  CRASH   a traceback
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import pathlib
import random
import re
import shutil
import traceback
import warnings
from unittest import mock

import numpy as np

from dpojax.cli.main import main
from dpojax.report.page import files as page_files
from dpojax.training.checkpoint import read_params

CONFIG = """from dpojax.config import stages


def get_config():
  config = stages(sft="sft", pairs="pairs", reward="reward_model", dpo="preference", comparison="comparison")
  config.data.source = "world"
  config.data.name = "complaint_desk"
  config.model.hidden = 16
  config.model.ffn = 32
  config.model.layers = 1
  config.batch.size = 4
  config.batch.rows = 2
  config.batch.row_length = 256
  config.logging.plots = False
  for name in ("sft", "reward", "dpo"):
    config[name].evaluation.every = 0
    config[name].optimizer.warmup_steps = 1
    config[name].checkpoint.every = 1
  config.dpo.monitor.every = 1
  config.dpo.monitor.prompts = 4
  config.dpo.monitor.max_tokens = 8
  config.sft.data.texts = 40
  config.sft.train.steps = 2
  config.sft.monitor.prompts = 0
  config.pairs.model.path = "stage:sft"
  config.pairs.pairs.prompts = 8
  config.pairs.pairs.max_tokens = 8
  config.reward.model.path = "stage:sft"
  config.reward.data.path = "stage:pairs"
  config.reward.train.steps = 2
  config.dpo.model.path = "stage:sft"
  config.dpo.data.path = "stage:pairs"
  config.dpo.reference.kind = "cache"
  config.dpo.monitor.rewards = "true,length"
  config.dpo.monitor.normalise = True
  config.dpo.optimizer.schedule = "constant"
  config.dpo.train.steps = 3
  config.comparison.model.path = "stage:sft"
  config.comparison.comparison.policies = "stage:dpo"
  config.comparison.rollout.reward = "model:stage:reward"
  config.comparison.rollout.prompts = 4
  config.comparison.rollout.samples = 2
  config.comparison.rollout.max_tokens = 8
  return config
"""
# The stages that a sweep's points share, and the one that they vary.
SWEEP = CONFIG.replace(', reward="reward_model"', "").replace('"reward", ', "").replace(', comparison="comparison"', "")
SWEEP = "".join(
  line + "\n" for line in SWEEP.splitlines() if not line.strip().startswith(("config.reward", "config.comparison"))
)
KINDS = ("flip", "cut", "empty", "delete", "stage", "run", "older", "swap")
# Times, and files that hold them. What reads those of a run is compared instead: reports, exports and scores.
VOLATILE = ("log.txt", "environment.json", "digests.json", "stage.json", "report.md", "result.json", "sweep.md")
TIMES = re.compile(r'"(time/[^"]*|tokens_per_second|seconds)": [^,}\n]*')
TRAINS = {"train": "a", "resume": "begun", "sweep": "sweep"}  # commands that go on with a folder


@dataclasses.dataclass(frozen=True)
class Case:
  """A damage to a file, and the command that is run after it.

  Attributes:
    kind: of `KINDS`.
    file: path below the folder of everything.
    other: where what stands there instead comes from; "" where it comes from nowhere.
    command: of `commands`.
    seed: of what is flipped or cut.
  """

  kind: str
  file: str
  other: str
  command: str
  seed: int

  def __str__(self) -> str:
    source = f" <- {self.other}" if self.other else ""
    return f"{self.command}: {self.kind} {self.file}{source} (seed {self.seed})"


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What a command has said, and digests of what it has made, by name."""

  code: int
  said: str
  made: dict[str, str]


def commands(at: pathlib.Path) -> dict[str, list[str]]:
  """Arguments of each command; `at` is the folder of everything."""
  data, out, file = f"--data={at}/rows.jsonl", f"--out={at}/out", f"--out={at}/out.jsonl"
  asked = [f"--prompt={(at / 'prompt.txt').read_text()}" if (at / "prompt.txt").exists() else "", "--max-tokens=6"]
  train, alone = ["train", f"--config={at}/config.py"], ["--until=dpo", "--config.dpo.train.steps=5"]
  return {
    "train": [*train, f"--workdir={at}/a"],
    "resume": [*train, f"--workdir={at}/begun", *alone],
    "sweep": ["sweep", f"--config={at}/sweep.py", f"--workdir={at}/sweep", "--grid=dpo.loss.beta=0.1,0.5"],
    "score policy": ["score", f"--model={at}/a/dpo", data, file],
    "score reward": ["score", f"--model={at}/a/reward", data, file],
    "score implicit": ["score", f"--rewards=implicit:{at}/a/dpo", data, file],
    "score exported": ["score", f"--model={at}/policy", data, file],
    "score by exported": ["score", f"--rewards=model:{at}/judge", data, file],
    "sample": ["sample", f"--model={at}/a/dpo", *asked],
    "sample exported": ["sample", f"--model={at}/policy", *asked],
    "eval": ["eval", f"--model={at}/a/dpo", data, out],
    "eval exported": ["eval", f"--model={at}/judge", data, out],
    "export": ["export", f"--workdir={at}/a/dpo", out],
    "export reward": ["export", f"--workdir={at}/a/reward", "--pad-token=blender", out],
    "report": ["report", f"{at}/a", out],
    "compare": ["compare", f"{at}/a/dpo", f"{at}/b/dpo"],
    "compare answers": ["compare", f"{at}/a/comparison:sft", f"{at}/a/comparison:dpo"],
  }


# Which commands read a file, by a pattern that its path begins with: the first that fits.
READ_BY = {
  "policy/": ("score exported", "sample exported"),
  "judge/": ("score by exported", "eval exported"),
  "sweep/": ("sweep",),
  "begun/dpo/": ("resume",),
  "a/dpo/checkpoints/": ("train", "score policy", "score implicit", "sample", "eval", "export"),
  "a/reward/checkpoints/": ("train", "score reward", "export reward"),
  "a/sft/checkpoints/": ("train", "score implicit", "eval"),
  "a/dpo/samples/": ("compare", "report"),
  "a/dpo/(model.json|tokenizer)": ("train", "score policy", "score implicit", "sample", "eval", "export"),
  "a/dpo/(config|result).json": ("train", "score implicit", "eval", "export", "report"),
  "a/reward/(model.json|tokenizer|result)": ("train", "score reward", "export reward"),
  "a/sft/(model.json|tokenizer)": ("train", "score implicit", "eval"),
  "a/comparison/": ("train", "report", "compare answers"),
  "a/": ("train", "report"),
}


def build(at: pathlib.Path) -> None:
  """Makes everything in `at`: two seeds of the experiment, older states of the first, an export of each model, a sweep."""
  (at / "config.py").write_text(CONFIG)
  (at / "sweep.py").write_text(SWEEP)
  train = ["train", f"--config={at}/config.py"]
  for steps, name in ((2, "old"), (3, "begun")):
    must([*train, f"--workdir={at}/a", "--until=dpo", f"--config.dpo.train.steps={steps}"])
    shutil.copytree(at / "a", at / name)
  must([*train, f"--workdir={at}/a"])
  must([*train, f"--workdir={at}/b", "--config.seed=1", "--config.sft.model.seed=1"])
  rows = (at / "a/pairs/pairs.jsonl").read_text().splitlines()[:4]
  kept = [{key: json.loads(row)[key] for key in ("prompt", "chosen", "rejected")} for row in rows]
  (at / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
  (at / "prompt.txt").write_text(kept[0]["prompt"] if isinstance(kept[0]["prompt"], str) else "")
  for run, policy, judge in (("a", "policy", "judge"), ("b", "other_policy", "other_judge")):
    must(["export", f"--workdir={at}/{run}/dpo", f"--out={at}/{policy}"])
    must(["export", f"--workdir={at}/{run}/reward", f"--out={at}/{judge}", "--pad-token=blender"])
  must(commands(at)["sweep"])


def must(arguments: list[str]) -> None:
  code, said = execute(arguments)
  assert code == 0, said


def execute(arguments: list[str]) -> tuple[int, str]:
  """(exit code, all that was printed) of a command; -1 and the traceback where it raised."""
  printed = io.StringIO()
  with contextlib.ExitStack() as stack:
    stack.enter_context(contextlib.redirect_stdout(printed))
    stack.enter_context(contextlib.redirect_stderr(printed))
    stack.enter_context(warnings.catch_warnings())
    warnings.simplefilter("always")
    if arguments[0] == "report":  # its figures are in index.html and in CSV files; drawing them takes 20 seconds
      stack.enter_context(mock.patch.object(page_files, "chart_files", rows_of_chart))
      stack.enter_context(mock.patch.object(page_files.vl_convert, "javascript_bundle", lambda *a, **k: ""))
    try:
      code = main(arguments)
    except SystemExit as end:
      code = end.code if isinstance(end.code, int) else 1
    except Exception:
      traceback.print_exc(file=printed)
      code = -1
  return code, printed.getvalue()


def rows_of_chart(chart, version):
  yield f"{chart.key}.csv", page_files.rows_csv(chart).encode()


def outcome(at: pathlib.Path, command: str) -> Outcome:
  """Runs a command and removes what it has written beside the runs."""
  code, said = execute(commands(at)[command])
  made = {}
  for place in (at / "out", at / "out.jsonl"):
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    made |= {path.relative_to(at).as_posix(): digest(path) for path in files}
  if command in TRAINS:
    made |= state(at / TRAINS[command])
  if command.startswith(("sample", "compare")):
    made["stdout"] = re.sub(r"[\d.,]+ (s|tokens/s)\b", "", said)
  shutil.rmtree(at / "out", ignore_errors=True)
  (at / "out.jsonl").unlink(missing_ok=True)
  return Outcome(code, said, made)


def state(folder: pathlib.Path) -> dict[str, str]:
  """Digests of what the stages in a folder have made: parameters as arrays, as the files of arrays hold their order."""
  made = {}
  for path in sorted(folder.rglob("*")):
    name = path.relative_to(folder).as_posix()
    # Stores of log-probs have names drawn at random.
    if path.is_file() and path.name not in VOLATILE and path.suffix != ".records" and "/checkpoints/" not in name:
      made[name] = digest(path)
    if path.name == "checkpoints":
      newest = max((int(step.name) for step in path.iterdir() if step.name.isdecimal()), default=None)
      with contextlib.suppress(ValueError):
        made[name] = str(newest) + str(digests_of(read_params(path, newest)))
  return made


def digests_of(params) -> str:
  value = hashlib.sha256()
  for path, leaf in sorted(_leaves(params, "")):
    value.update(path.encode() + np.asarray(leaf).tobytes())
  return value.hexdigest()


def _leaves(tree, path):
  if not isinstance(tree, dict):
    yield path, tree
    return
  for name, inner in tree.items():
    yield from _leaves(inner, f"{path}/{name}")


def digest(path: pathlib.Path) -> str:
  content = path.read_bytes()
  if path.name == "metrics.jsonl":
    content = TIMES.sub("", content.decode(errors="replace")).encode()
  if path.name == "index.html":
    content = re.sub(rb"page made [-0-9]+ [0-9:]+", b"", content)
  return hashlib.sha256(content).hexdigest()


def cases(at: pathlib.Path, count: int, seed: int) -> list[Case]:
  """Damages drawn at random, spread over kinds of damage and of files: of a checkpoint's many files few are drawn."""
  draw = random.Random(seed)
  kinds: dict[str, list[str]] = {}
  for path in sorted(at.rglob("*")):
    name = path.relative_to(at).as_posix()
    if path.is_file() and any(re.match(start, name) for start in READ_BY) and path.name != "lock.json":
      kinds.setdefault(kind_of(name), []).append(name)
  # Files of which there is an older version, or one of another run, by their kind.
  replaced = {
    kind: [
      found
      for names in kinds.values()
      if (found := [name for name in names if source(at, name, kind, random.Random(0)) is not None])
    ]
    for kind in ("older", "run")
  }
  drawn: list[Case] = []
  while len(drawn) < count:
    order = sorted(kinds)
    draw.shuffle(order)
    for kind_of_file in order:
      file, kind = draw.choice(kinds[kind_of_file]), KINDS[len(drawn) % len(KINDS)]
      if kind in replaced:
        file = draw.choice(draw.choice(replaced[kind]))
      other = source(at, file, kind, draw)
      if other is None:
        kind, other = draw.choice(KINDS[:4]), ""
      if kind in ("flip", "cut", "empty") and not (at / file).stat().st_size:
        kind = "delete"
      readers = next(names for start, names in READ_BY.items() if re.match(start, file))
      drawn.append(Case(kind, file, other, draw.choice(readers), draw.randrange(2**31)))
      if len(drawn) == count:
        break
  return drawn


def kind_of(name: str) -> str:
  """`a/dpo/checkpoints/3/params/...` of all steps and arrays is one kind of file."""
  head, inside, rest = name.partition("/checkpoints/")
  if inside:
    rest = re.sub(r"^\d+/", "", rest)
    return f"{head}/checkpoints/{rest.split('/')[0]}"
  return re.sub(r"\d+|[0-9a-f]{16,}", "N", name)


def source(at: pathlib.Path, file: str, kind: str, draw: random.Random) -> str | None:
  """What a file is replaced by or swapped with; "" where that is nothing, None where there is nothing of the kind."""
  top, _, below = file.partition("/")
  if kind in KINDS[:4]:
    return ""
  if kind == "run":
    found = [{"a": "b/", "begun": "b/", "policy": "other_policy/", "judge": "other_judge/", "sweep": "b/"}[top] + below]
  elif kind == "older":
    found = [f"old/{below}"] if top in ("a", "begun") else []
  elif kind == "stage":
    name = pathlib.PurePosixPath(file).name
    found = [path.relative_to(at).as_posix() for path in sorted((at / top).rglob(name)) if path.is_file()]
  else:
    found = [path.relative_to(at).as_posix() for path in sorted((at / file).parent.iterdir()) if path.is_file()]
  content = (at / file).read_bytes()
  found = [name for name in found if (at / name).is_file() and (at / name).read_bytes() != content]
  return draw.choice(found) if found else None


def damage(at: pathlib.Path, case: Case) -> None:
  path, draw = at / case.file, random.Random(case.seed)
  content = path.read_bytes()
  if case.kind == "flip":
    place = draw.randrange(len(content))
    path.write_bytes(content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :])
  elif case.kind == "cut":
    path.write_bytes(content[: draw.randrange(len(content))])
  elif case.kind == "empty":
    path.write_bytes(b"")
  elif case.kind == "delete":
    path.unlink()
  else:
    path.write_bytes((at / case.other).read_bytes())
    if case.kind == "swap":
      (at / case.other).write_bytes(content)


def verdict(case: Case, before: Outcome, after: Outcome) -> str:
  """named, same, SILENT or CRASH."""
  if after.code == -1 or "Traceback" in after.said:
    return "CRASH"
  touched = [case.file, *([case.other] if case.kind == "swap" else [])]
  if any(name in after.said and name not in before.said for file in touched for name in names_of(file)):
    return "named"
  own = {file.partition("/")[2] for file in touched}
  # A checkpoint that was not read is damaged still, and cannot be compared.
  own |= {name for name in before.made.keys() - after.made.keys() if any(f"/{name}/" in file for file in touched)}
  strip = lambda made: {name: value for name, value in made.items() if name not in own}  # noqa: E731
  return "same" if after.code == before.code and strip(after.made) == strip(before.made) else "SILENT"


def names_of(file: str) -> list[str]:
  """What counts as naming a file: its place in the folder of everything, or the checkpoint or store that it is part of."""
  parts = pathlib.PurePosixPath(file).parts
  found = ["/".join(parts[1:])]
  if "checkpoints" in parts:
    at = parts.index("checkpoints")
    found.append("/".join(parts[at - 1 : at + 2]))
  return found
