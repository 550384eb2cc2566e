"""Mutations of valid inputs. Each draws from a NumPy Generator and returns (what came out, the mutation's name)."""

import copy
import json
import re
from typing import Any

DEEP = "\0deep\0"  # stands for a value nested too deeply for Python's own writer of JSON
DIGITS = "\0digits\0"  # stands for a whole number of 5,000 digits, which Python does not print
ODD_TEXTS = (
  *("", " ", "\0", "\ud800", "x" * 5000, "e\u0301", "\u202e", "\x1b[31m", "../../x", "~nobody/x", "NaN", "-1", "null"),
  *(
    "1e999",
    "\n\nHuman: ",
    "[[[",
    "{{ x",
    "{% for",
    "%s",
    "\u2028",
    "0x10",
    "١٢",
    "true",
    "<end>",
    "stage:x",
    "\udc00a",
  ),
)
ODD_NUMBERS = (
  *(0, -1, 1, 2, 3, 7, 2**31 - 1, 2**31, 2**32, 2**63, -(2**63) - 1, 10**30, 10**400, 0.5, -0.5, 1e-300, 1e-45, 1e39),
  *(1e308, -1e308, float("nan"), float("inf"), -float("inf"), -0.0),
)
OTHER_TYPES = (None, True, False, 0, 1.5, "text", [], {}, [None], [[]], {"a": {}}, [1, "a", None], {"": ""})


def pick(rng, several) -> Any:
  """One of several, as Python holds it."""
  return several[int(rng.integers(len(several)))]


def places(value: Any, path: tuple = ()) -> list[tuple]:
  """The paths of all values inside one, its own first."""
  inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
  return [path, *(found for key, one in inner for found in places(one, (*path, key)))]


def at(value: Any, path: tuple) -> Any:
  for key in path:
    value = value[key]
  return value


def replaced(value: Any, path: tuple, new: Any) -> Any:
  """The value with another one at a path; changes it in place where the path is not empty."""
  if not path:
    return new
  at(value, path[:-1])[path[-1]] = new
  return value


def mutated_value(value: Any, rng) -> tuple[Any, str]:
  """A JSON value with one change at a random place."""
  value = copy.deepcopy(value)
  path = pick(rng, places(value)[1:] or [()])
  old = at(value, path)
  name = pick(
    rng, ["type", "type", "number", "number", "text", "deleted", "renamed", "extra key", "deep", "repeated", "swapped"]
  )
  if name == "number" and isinstance(old, int | float) and rng.random() < 0.4:
    return replaced(value, path, pick(rng, [-old, old + 1, old * 1000, old // 2, str(old), [old]])), "number"
  if name in ("type", "number", "text", "deep"):
    new = {"type": OTHER_TYPES, "number": (*ODD_NUMBERS, DIGITS), "text": ODD_TEXTS, "deep": (DEEP,)}[name]
    return replaced(value, path, copy.deepcopy(pick(rng, new))), name
  if not path:
    return value, "unchanged"
  around = at(value, path[:-1])
  if name == "deleted":
    del around[path[-1]]
  elif name == "repeated":
    replaced(value, path, [old] * int(pick(rng, [2, 300])) if not isinstance(old, str) else old * 300)
  elif name == "swapped":
    other = pick(rng, list(around) if isinstance(around, dict) else range(len(around)))
    around[path[-1]], around[other] = around[other], around[path[-1]]
  elif isinstance(around, dict) and name == "renamed":
    around[pick(rng, (*ODD_TEXTS, str(path[-1]).upper(), f" {path[-1]}"))] = around.pop(path[-1])
  elif isinstance(around, dict):
    around[pick(rng, ("extra", *ODD_TEXTS))] = pick(rng, OTHER_TYPES)
  return value, name


def dumped(value: Any) -> str:
  """JSON as Python writes it, NaN and halves of surrogate pairs among it."""
  text = json.dumps(value, ensure_ascii=True)
  return text.replace(json.dumps(DEEP), "[" * 100_000 + "]" * 100_000).replace(json.dumps(DIGITS), "7" * 5000)


def mutated_json(value: Any, rng) -> tuple[bytes, str]:
  """A JSON file with one to three changes: of its values, of its text, or of its bytes."""
  drawn = rng.random()
  if drawn < 0.75:
    names = []
    for _ in range(int(pick(rng, [1, 1, 1, 2, 3]))):
      value, name = mutated_value(value, rng)
      names.append(name)
    return dumped(value).encode(), names[0]
  text = json.dumps(value)
  if drawn < 0.82:
    found = [m for m in re.finditer(r'("[^"\\]*"): ', text)]
    if found:
      key = pick(rng, found)
      return (text[: key.start()] + f"{key[1]}: {pick(rng, ['null', '7', text])}, " + text[key.start() :]).encode(), (
        "key twice"
      )
  return mutated_bytes(text.encode(), rng)


def mutated_bytes(content: bytes, rng) -> tuple[bytes, str]:
  """A file damaged in its bytes."""
  name = pick(
    rng,
    ["cut", "cut", "flipped", "flipped", "zeroed", "removed", "doubled", "empty", "random", "tail", "head", "coded"],
  )
  size = len(content)
  start, end = sorted(int(i) for i in rng.integers(0, size + 1, 2))
  if name == "cut":
    return content[: int(pick(rng, [start, max(size - 1, 0), min(8, size)]))], name
  if name == "flipped":
    changed = bytearray(content)
    for i in rng.integers(0, max(size, 1), int(pick(rng, [1, 1, 4, 40]))) if size else ():
      changed[int(i)] ^= 1 << int(rng.integers(8))
    return bytes(changed), name
  if name == "zeroed":
    return content[:start] + bytes(end - start) + content[end:], name
  if name == "coded":
    code = pick(rng, ["utf-16", "utf-8-sig", "utf-32-le", "latin-1", "utf-7"])
    return content.decode("utf-8", "replace").encode(code, "replace"), f"coded {code}"
  changed = {
    "removed": content[:start] + content[end:],
    "doubled": content[:end] + content[start:],
    "empty": b"",
    "random": rng.bytes(int(rng.integers(1, 200))),
    "tail": content + pick(rng, [b"\0", b"}", b"\n", b"garbage", content]),
    "head": pick(rng, [b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"# comment\n", b"\x1f\x8b", b"PAR1"]) + content,
  }
  return changed[name], name


def mutated_text(text: str, rng) -> tuple[str, str]:
  """A text with odd text put into it, a piece gone, twice, or moved."""
  name = pick(rng, ["inserted", "inserted", "removed", "doubled", "line gone", "lines swapped", "character"])
  start, end = sorted(int(i) for i in rng.integers(0, len(text) + 1, 2))
  end = min(end, start + 40)
  if name == "inserted":
    return text[:start] + str(pick(rng, (*ODD_TEXTS, *ODD_NUMBERS[:-7]))) + text[start:], name
  if name == "removed":
    return text[:start] + text[end:], name
  if name == "doubled":
    return text[:end] + text[start:], name
  if name == "character":
    return text[:start] + pick(rng, list("\"'{}[]()%:,;=\\\0\n\t#*.-0é")) + text[start + 1 :], name
  lines = text.split("\n")
  i, j = int(rng.integers(len(lines))), int(rng.integers(len(lines)))
  if name == "line gone":
    del lines[i]
  else:
    lines[i], lines[j] = lines[j], lines[i]
  return "\n".join(lines), name


WORK = ("row-length", "row_length", "samples", "bootstrap")  # of which a large number is work, and a larger one refused


def odd_word(rng, option: str = "") -> str:
  """A value of an option that nobody would give, as a shell can hand it over: without NUL; of WORK none that is work."""
  some = (
    *ODD_TEXTS,
    *(str(n) for n in ODD_NUMBERS if n != 10**400),
    "[" * 2000,
    "9" * 5000,
    "-",
    "--",
    "=",
    "a,b,,",
    "'",
  )
  word = str(pick(rng, some)).replace("\0", "")
  return "77" if option.endswith(WORK) and word.isdecimal() and 3 < len(word) < 8 else word
