"""Games for `dpojax bt`: files and options, and games in memory."""

import gzip
import json

from tests.fuzz.cases import FOLDER, LOOP, MISSING, Case
from tests.fuzz.mutate import ODD_TEXTS, dumped, mutated_bytes, mutated_text, mutated_value, odd_word, pick
from tests.fuzz.rows import as_csv, as_parquet

OUTCOMES = ("a", "b", "tie")
WEIGHTS = (1e308, 1e-320, 1e-30, 1e15, 2.0**53, 0.0, -1.0, float("nan"), float("inf"), "x", "", None, True, 10**400)
WINNERS = ["--winner=winner", "--loser=loser"]


def games(rng) -> list[dict]:
  """A dozen games that connect four items."""
  names = ["ann", "bob", "cy", "dee"]
  found = []
  for i in range(14):
    a, b = (i % 4, (i + 1 + i // 4 % 3) % 4)
    outcome = OUTCOMES[int(rng.integers(3))] if i >= 8 else OUTCOMES[i % 2]
    won = (names[a], names[b]) if outcome != "b" else (names[b], names[a])
    found.append(
      {
        "a": names[a],
        "b": names[b],
        "outcome": outcome,
        "weight": 1.0,
        "winner": won[0],
        "loser": won[1],
        "neutral": False,
        "lead": (i * 7 % 5 - 2) / 2,
        "size_a": i,
        "size_b": 9,
        "rater": f"r{i % 5}",
      }
    )
  return found


def columns(rng) -> list[str]:
  options = list(WINNERS) if rng.random() < 0.3 else ["--a=a", "--b=b", "--outcome=outcome"]
  options += ["--weight=weight"] if rng.random() < 0.5 else []
  home = "--a=a" in options and rng.random() < 0.2
  options += ["--home"] + (["--neutral=neutral"] if rng.random() < 0.5 else []) if home else []
  options += [f"--ties={pick(rng, ['half', 'half', 'davidson', 'rao_kupper', 'error'])}"]
  if rng.random() < 0.5:
    options += [pick(rng, ["--prior=pseudo:1", "--prior=normal:1", "--prior=normal:1e-9", "--prior=pseudo:1e-300"])]
    options += ["--on-disconnected=prior"] if rng.random() < 0.5 else []
  elif rng.random() < 0.3:
    options += ["--on-disconnected=largest"]
  options += [pick(rng, ["--covariate=lead", "--covariate=size_a,size_b"])] if rng.random() < 0.2 else []
  options += ["--cluster=rater"] if rng.random() < 0.2 else []
  options += ["--suggest=3"] if rng.random() < 0.2 else []
  return options


def games_case(rng) -> Case:
  """A file of games with something wrong in it, or options that are odd."""
  rows, options = games(rng), columns(rng)
  suffix = pick(rng, [".csv", ".csv", ".jsonl", ".json", ".parquet", ".tsv"])
  drawn = rng.random()
  kind, content = "", b""
  if drawn < 0.25:
    kind = "weights"
    for row in rows:
      row["weight"] = pick(rng, [1.0, 1.0, 1.0, pick(rng, WEIGHTS)])
    options = [o for o in options if not o.startswith("--weight")] + ["--weight=weight"]
  elif drawn < 0.5:
    i = int(rng.integers(len(rows)))
    changed, kind = mutated_value(rows[i], rng)
    rows[i] = changed if isinstance(changed, dict) else {"a": changed}
  elif drawn < 0.6:
    kind = "items"
    odd = pick(rng, [*ODD_TEXTS, 1, 1.5, True, None, [], "ann", ["x"], {"x": 1}, -0.0])
    for row in rows[:: int(pick(rng, [1, 3]))]:
      row[pick(rng, ["a", "b", "winner"])] = odd
  elif drawn < 0.75:
    kind, words = (
      "options",
      ["prior", "scale", "base", "offset", "level", "bootstrap", "seed", "baseline", "map", "weight"],
    )
    words += ["ties", "a", "covariance", "on-disconnected", "tie", "neutral", "winner", "plot", "out"]
    words += ["covariate", "cluster", "both-bad", "suggest"]
    extremes = [
      "pseudo:1e308",
      "normal:1e-320",
      "pseudo:5e-324",
      "normal:1e308",
      "1e-9",
      "0.999999999",
      "1e15",
      "3",
      "2",
      "ann",
    ]
    for _ in range(int(pick(rng, [1, 1, 2, 3]))):
      word = pick(rng, words)
      options.append(f"--{word}={pick(rng, [odd_word(rng, word), pick(rng, extremes)])}")
  try:
    if suffix == ".parquet":
      content = as_parquet(rows)
    elif suffix == ".jsonl":
      content = "".join(dumped(row) + "\n" for row in rows).encode()
    elif suffix == ".json":
      content = f"[{', '.join(map(dumped, rows))}]".encode()
    else:
      content = as_csv(rows, "\t" if suffix == ".tsv" else ",").encode("utf-8", "surrogatepass")
  except Exception:  # the writer of Parquet refuses some rows
    content, suffix = json.dumps(rows).encode(), ".jsonl"
  files: dict[str, bytes | str] = {}
  name = f"games{suffix}"
  if drawn >= 0.75 and drawn < 0.97:
    if suffix in (".csv", ".tsv") and rng.random() < 0.5:
      text, kind = mutated_text(content.decode(), rng)
      content = text.encode("utf-8", "surrogatepass")
    elif rng.random() < 0.6:
      content, kind = mutated_bytes(content, rng)
    else:
      content, kind = mutated_bytes(gzip.compress(content, mtime=0), rng)
      name, kind = f"{name}.gz", f"gz {kind}"
  files[name] = content
  if drawn >= 0.97:
    kind = pick(rng, [MISSING, FOLDER, LOOP])
    files = {name: kind}
  return Case("bt", kind or "none", ["bt", name, *options], files)


def memory_case(rng) -> Case:
  """Games in a program."""
  rows = games(rng)
  value = {"a": [r["a"] for r in rows], "b": [r["b"] for r in rows], "y": [r["outcome"] == "tie" for r in rows]}
  changed, kind = mutated_value(value, rng)
  if not isinstance(changed, dict) or not set(value) <= set(changed):
    changed, kind = value | {"y": value["y"][:-1]}, "deleted"
  text = repr(changed).replace(repr("\0digits\0"), "10 ** 400").replace(repr("\0deep\0"), "[[[[1]]]]")
  return Case(
    "bt",
    f"memory {kind}",
    ["python", "comparisons", "games.py", "a", "b", "y"],
    {"games.py": f"ROWS = {text}".encode()},
  )
