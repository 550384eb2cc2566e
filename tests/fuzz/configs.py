"""Config files of Python, and the words that override them."""

from dpojax.config.keys import fields_by_key
from tests.fuzz.cases import FOLDER, LOOP, MISSING, Case
from tests.fuzz.mutate import ODD_NUMBERS, ODD_TEXTS, OTHER_TYPES, mutated_bytes, mutated_text, odd_word, pick

ONE = """from dpojax.config import base


def get_config():
  config = base()
  config.recipe = "preference"
  config.model.path = "no_model"
  config.data.path = "no_data.jsonl"
  config.loss.name = "dpo"
  config.loss.beta = 0.1
  config.batch.size = 8
  config.train.steps = 10
  return config
"""
SEVERAL = """from dpojax.config import stages


def get_config():
  config = stages(sft="sft", pairs="pairs", dpo="preference", ppo="policy_gradient", reward="reward_model")
  config.data.source = "world"
  config.data.name = "complaint_desk"
  config.pairs.model.path = "stage:sft"
  config.dpo.model.path = "stage:sft"
  config.dpo.data.path = "stage:pairs"
  config.reward.model.path = "stage:sft"
  config.reward.data.path = "stage:pairs"
  config.ppo.model.path = "stage:sft"
  config.ppo.rollout.reward = "model:stage:reward"
  config.batch.size = 16
  return config


def get_points():
  return [{"dpo.loss.beta": 0.1}, {"dpo.loss.beta": 0.5}]
"""
BODIES = (
  "raise ValueError('no')",
  "raise SystemExit(3)",
  "raise BaseException('x')",
  "raise StopIteration",
  "raise GeneratorExit",
  "raise MemoryError",
  "raise Exception('two\\nlines')",
  "raise Exception('\\ud800')",
  "raise KeyError",
  'raise AttributeError(\'Did you mean "x" instead of "y"\')',
  "import sys; sys.exit()",
  "import sys; sys.exit('a reason')",
  "exit(1)",
  "quit()",
  "return None",
  "return {}",
  "return 1",
  "return base",
  "yield 1",
  "get_config()",
  "1 / 0",
  "undefined",
  "import no_such_module",
  "assert False",
  "config = __import__('ml_collections').ConfigDict(); return config",
  "config = __import__('ml_collections').ConfigDict({'recipe': 1}); return config",
  "config = __import__('ml_collections').ConfigDict({'recipe': 'sft', 'x': {'y': 1}}); return config",
  "config = __import__('ml_collections').ConfigDict({'a': {'recipe': 'sft'}}); return config",
  "config = __import__('ml_collections').ConfigDict({'a': {'recipe': {}}}); return config",
  "print('\\ud800'.encode('utf-8', 'surrogatepass'))",
  "import warnings; warnings.warn('x')",
  "del base",
  "return __import__('dpojax').config.stages()",
  "return __import__('dpojax.config').config.stages(x='no')",
  "return __import__('dpojax.config').config.stages(x=1)",
  "return __import__('dpojax.config').config.stages(seed='sft')",
)
POINTS = (
  "None",
  "[]",
  "[1]",
  "[{}]",
  "[{1: 2}]",
  "[{'loss.beta': {}}]",
  "[{'x': 1}]",
  "{'a': 1}",
  "1 / 0",
  "exit(2)",
  "iter([])",
)
POINTS += ("[{'loss.beta': float('nan')}]", "[{'': 0.1}]", "[{'loss': 0.1}]", "[{'loss.beta.x': 1}]", "[{'dpo': None}]")


def value_of(rng) -> str:
  """A value as a config file writes it."""
  drawn = rng.random()
  if drawn < 0.3:
    return repr(pick(rng, ODD_TEXTS))
  if drawn < 0.6:
    return repr(pick(rng, OTHER_TYPES))
  number = pick(rng, ODD_NUMBERS)
  return f"float('{number}')" if isinstance(number, float) else str(number)


def key_of(rng, several: bool) -> str:
  keys = list(fields_by_key())
  key = pick(rng, keys)
  if rng.random() < 0.15:
    key = pick(
      rng,
      [key + "s", key.rpartition(".")[2], key.replace(".", "_"), f"{key}.x", key.partition(".")[0], "", ".", "recipe"],
    )
  return (
    f"{pick(rng, ['sft', 'dpo', 'ppo', 'reward', 'pairs', 'none'])}.{key}" if several and rng.random() < 0.7 else key
  )


def configs_case(rng) -> Case:
  """A config that is wrong in its code or values, or words that override it; nothing is run."""
  several = bool(rng.random() < 0.3)
  text, words, kind = (SEVERAL if several else ONE), [], ""
  files: dict[str, bytes | str] = {}
  command = ["train", "--config=config.py", "--workdir=w", "--dry-run"]
  lines = text.split("\n")
  body = lines.index("def get_config():") + 1
  drawn = rng.random()
  if drawn < 0.15:
    kind = "code"
    lines.insert(int(pick(rng, [body, body + 1, body + 3])), f"  {pick(rng, BODIES)}")
    if rng.random() < 0.2:
      lines.insert(0, pick(rng, BODIES))
  elif drawn < 0.45:
    kind = "values"
    for _ in range(int(pick(rng, [1, 1, 2, 3]))):
      lines.insert(body + 1, f"  config.{key_of(rng, several) or 'x'} = {value_of(rng)}")
  elif drawn < 0.75:
    kind = "words"
    for _ in range(int(pick(rng, [1, 1, 2, 3]))):
      key, value = key_of(rng, several), odd_word(rng)
      field = fields_by_key().get(key.partition(".")[2] if several else key)
      if field is not None and field.metadata["choices"] and rng.random() < 0.5:
        value = str(pick(rng, field.metadata["choices"]))
      elif rng.random() < 0.3:
        value = pick(
          rng, ["1", "2", "0.5", "true", "x", "stage:sft", "(1,2)", "[1]", "None", "dpo+sft", "model:x", "true,length"]
        )
      words += pick(
        rng,
        [[f"--config.{key}={value}"]] * 8
        + [[f"--config.{key}", value], [f"--noconfig.{key}"], [f"-config.{key}={value}"]],
      )
  elif drawn < 0.83:
    changed, kind = mutated_text(text, rng)
    files["config.py"] = changed.encode("utf-8", "surrogatepass")
  elif drawn < 0.88:
    files["config.py"], kind = mutated_bytes(text.encode(), rng)
  elif drawn < 0.96:
    kind = "sweep"
    grid = pick(rng, [f"--grid={key_of(rng, several)}={odd_word(rng)},{odd_word(rng)}", f"--grid={odd_word(rng)}", ""])
    command = ["sweep", "--config=config.py", "--workdir=w", *([grid] if grid else [])]
    lines = [line for line in lines if "get_points" not in line and "dpo.loss.beta" not in line] if several else lines
    points = pick(rng, POINTS) if several or not grid else "[]"
    lines += ["", "def get_points():", f"  return {points}", ""]
  else:
    kind = pick(rng, [MISSING, FOLDER, LOOP, "argument", "--only", "--until", "--jobs"])
    if kind in (MISSING, FOLDER, LOOP):
      files["config.py"] = kind
    elif kind == "argument":
      command[1] = f"--config=config.py:{odd_word(rng)}"
    else:
      words = [f"{kind}={odd_word(rng)}"]
  files.setdefault("config.py", "\n".join(lines).encode("utf-8", "surrogatepass"))
  return Case("configs", kind, [*command, *words], files)
