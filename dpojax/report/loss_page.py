"""The page of all losses, made from their docstrings: `docs/losses.md`."""

import inspect
import re
import sys
from collections.abc import Iterator

from dpojax import losses
from dpojax.losses import LOSSES, Loss
from dpojax.markdown import within_cell
from dpojax.report.tables import markdown
from dpojax.types import Answers

IMAGES = "images/losses"
SECTION = r"\n\n(Options|Value|Example|Source)::?\n"
GLANCE = "glance.png"

INTRODUCTION = f"""\
# Losses

<!-- made by docs/make_losses.py from the docstrings of dpojax.losses; do not edit -->

A loss is chosen by its name in a config (`--config.loss.name=ipo --config.loss.beta=0.3`). It takes the log-probs of
answers, in nats and summed over their tokens, and gives one value per example; the step divides the weighted sum by the
sum of weights, over the global batch, so that nothing depends on devices, row groups or packing. Options have the
default shown, the one of the loss's paper where there is one, and are traced: changing them compiles nothing.

Signs: a and b are the log-ratios policy - reference of the chosen and the rejected answer, subtracted per token and then
summed; y_w and y_l are these answers, |y| is a number of tokens, s a score of an f-divergence (`loss.f_divergence`),
the identity unless another is chosen; sigmoid(x) = 1 / (1 + e^-x); sg() is held constant by the gradient. A pair's own
margin, where data have one, is taken from the logit, in units of beta times nats.

Each loss is drawn at beta = 1, other options at their defaults (but for a smaller penalty of `dpop` and a larger alpha of `xpo`), against the margin a - b (or that of the log-probs
where there is no reference). At another beta read the axis as beta times the margin; IPO and SPPO are then to be divided
by beta squared. The gradient weight is minus the slope: where it is positive the loss asks for more margin, where it is
negative for less. DPO is the dashed line.

![How the losses of the margin differ]({IMAGES}/{GLANCE})

At a glance: DPO levels off, and never stops asking. Conservative DPO turns round where the policy prefers as often as
labels are right. Robust DPO goes on downwards. The hinge stops at 1. IPO pulls back to its target as hard as it pushed.
"""

DATA = """\
A loss is a function of plain arrays too: `from dpojax import losses` and
`losses.dpo(chosen, rejected, reference_chosen, reference_rejected, beta=0.1)`. Each takes some of these, lists, NumPy or
JAX arrays of one shape [B] unless another is said; shapes that do not fit are an error that names them.
"""
NEEDS = {
  Answers.PAIR: "pairs",
  Answers.TRIPLE: "triples (gold, chosen, rejected)",
  Answers.UNPAIRED: "unpaired answers, desirable or not",
  Answers.RANKING: "rankings",
}
READS = {
  "reference": "a reference",
  "token_kl": "the reference's whole distribution (a live reference)",
  "mismatched": "answers of other prompts",
  "opponent": "which answer the reference wrote",
  "shift": "a running mean over steps",
}


def loss_page() -> str:
  """The text of `docs/losses.md`."""
  parts = [INTRODUCTION, _contents(), DATA, _contract() + "\n"]
  for family in _families():
    parts.append(f"## {_summary(inspect.getdoc(sys.modules[family]) or '').rstrip('.')}\n")
    parts += [_section(name) for name, loss in LOSSES.items() if loss.function.__module__ == family]
  return "\n".join(parts)


def _families() -> Iterator[str]:
  yield from dict.fromkeys(loss.function.__module__ for loss in LOSSES.values())


def _contents() -> str:
  rows = []
  for family in _families():
    for name, loss in LOSSES.items():
      if loss.function.__module__ == family:
        needs = [
          "rewards of " * loss.of_rewards + NEEDS[loss.answers],
          *(text for key, text in READS.items() if key in loss.reads),
        ]
        rows.append([f"[{name}](#{name})", ", ".join(needs) + (", the global batch" if loss.coupled else "")])
  return markdown(["loss", "reads"], rows, cell=within_cell).replace("|--:|", "|:--|") + "\n"


def _section(name: str) -> str:
  loss = LOSSES[name]
  doc = inspect.getdoc(loss.function) or ""
  head, *_ = re.split(SECTION, doc)
  sections = dict(zip(re.findall(SECTION, doc), re.split(SECTION, doc)[2::2], strict=True))
  lines = [f"### {name}\n", _prose(head), "", f"Data: {_data(loss)}.", ""]
  if loss.options:
    lines += [_options(loss, sections["Options"]), ""]
  value = _joined(sections["Value"])
  lines += [f"Value: {value[:1].lower()}{value[1:]}", "", f"Source: {_joined(sections['Source'])}", ""]
  lines += ["```python", inspect.cleandoc(sections["Example"].strip("\n")), "```", ""]
  return "\n".join([*lines, f"![{name}]({IMAGES}/{name}.png)", ""])


def _data(loss: Loss) -> str:
  """The arrays that the loss takes, those that may be left out last."""
  parameters = inspect.signature(loss.function).parameters
  needed = [f"`{key}`" for key in loss.data if parameters[key].default is inspect.Parameter.empty]
  others = [f"`{key}`" for key in loss.data if parameters[key].default is not inspect.Parameter.empty]
  return ", ".join(needed) + (f"; optional: {', '.join(others)}" if others else "")


def _options(loss: Loss, text: str) -> str:
  """The options as a table."""
  entries, parameters = _entries(text), inspect.signature(loss.function).parameters
  rows = [[f"`{key}`", _default(parameters[key].default), entries[key]] for key in loss.options]
  return markdown(["option", "default", ""], rows, cell=within_cell).replace("--:|", ":--|")


def _contract() -> str:
  """What the package says of all losses: their data as a table."""
  entries = _entries((losses.__doc__ or "").split("\nData:\n")[1].split("\n\n")[0])
  names = {key: ", ".join(f"`{name}`" for name in key.split(", ")) for key in entries}
  return markdown(["data", ""], [[names[key], text] for key, text in entries.items()], cell=within_cell).replace(
    "--:|", ":--|"
  )


def _entries(text: str) -> dict[str, str]:
  """What is said of each name, or names with commas between them, in an indented section of a docstring."""
  found = re.findall(r"^  (\w+(?:, \w+)*): (.*(?:\n    .*)*)", _indented(text), re.M)
  return {key: _joined(meaning) for key, meaning in found}


def _default(value) -> str:
  return value.__name__ if callable(value) else f"{value:g}"


def _prose(text: str) -> str:
  """Paragraphs, with what follows `::` as code."""
  blocks = []
  for block in text.split("\n\n"):
    if block.startswith("  "):
      blocks.append("```\n" + inspect.cleandoc(block) + "\n```")
    else:
      blocks.append(_joined(block).removesuffix("::") + ("" if block.rstrip().endswith(".") else ":"))
  return "\n\n".join(blocks).replace("::", ":")


def _indented(text: str) -> str:
  return "\n".join("  " + line if not line.startswith("  ") else line for line in text.splitlines())


def _joined(text: str) -> str:
  return " ".join(line.strip() for line in text.strip().splitlines())


def _summary(text: str) -> str:
  return text.split("\n\n")[0].replace("\n", " ")
