"""The README.md of an exported model: what it is, how it was made, what was measured."""

import json
from typing import Any

from dpojax import __version__

# (split, metric, words) of the results that a card shows, where they were measured.
RESULTS = [
  ("eval", "loss", "loss, held-out"),
  ("eval", "rewards/accuracies", "reward accuracy, held-out"),
  ("eval", "rewards/margins", "reward margin, held-out"),
  ("policy", "reward/true", "true reward of what it writes"),
  ("policy", "kl/sequence", "KL to the reference, nats an answer"),
]


def model_card(name: str, config: dict[str, Any], result: dict[str, Any] | None, *, step: int | None = None) -> str:
  """A model card in Markdown with the front matter that model hubs read.

  Args:
    name: the model's name, its title.
    config: settings of the run, the JSON form of its config.json.
    result: its result.json; None for a run that has not ended.
    step: the exported checkpoint; None: the last.
  """
  objective, loss, base = config["objective"], config["loss"], config["model"]["path"]
  method = f"{loss['name'].upper()} (beta {loss['beta']:g})" if objective == "preference" else "supervised fine-tuning"
  start = f"`{base}`" if base else "a model trained from scratch"
  tag = loss["name"] if objective == "preference" else "sft"
  parts = [
    f"---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- dpojax\n- {tag}\n---",
    f"# {name}",
    f"Trained with dpojax {__version__} by {method} on {_data(config['data'])}, starting from {start}.",
    _results(result, step),
    "## Settings\n\n```json\n" + json.dumps(config, indent=2, ensure_ascii=False) + "\n```",
    "## Use\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
    'tokenizer = AutoTokenizer.from_pretrained("PATH")\nmodel = AutoModelForCausalLM.from_pretrained("PATH")\n```',
    "The data's terms and those of the model it starts from apply to this model too. "
    "It was measured only as far as the table says.",
  ]
  return "\n\n".join(part for part in parts if part) + "\n"


def _data(data: dict[str, Any]) -> str:
  if data["source"] == "file":
    return f"the file `{data['path']}`"
  if data["source"] == "world":
    return f"the built-in world `{data['name']}`"
  revision = f" at revision {data['revision']}" if data["revision"] else ""
  return f"`{data['name']}`{revision}, split `{data['split']}`"


def _results(result: dict[str, Any] | None, step: int | None) -> str:
  if result is None:
    return "The run had not ended when this was exported" + (f" (step {step})." if step is not None else ".")
  rows = []
  for split, metric, words in RESULTS:
    before, after = (result[when].get(split, {}).get(metric) for when in ("before", "after"))
    if before is not None and after is not None:
      rows.append(f"| {words} | {float(before):.4g} | {float(after):.4g} |")
  text = f"## Results\n\nMeasured before and after {result['steps']} steps"
  if step is not None and step != result["steps"]:
    text += f"; the weights here are those of step {step}"
  return text + ".\n\n" + "\n".join(["|  | before | after |", "|:--|--:|--:|", *rows]) if rows else text + "."
