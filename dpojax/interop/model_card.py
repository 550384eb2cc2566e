"""The README.md of an exported model: what it is, how it was made, what was measured."""

from typing import Any

from dpojax import __version__
from dpojax.files import json_text
from dpojax.markdown import code, escape

# (split, metric, words) of the results that a card shows, where they were measured.
RESULTS = [
  ("eval", "loss", "loss, held-out"),
  ("eval", "rewards/accuracies", "reward accuracy, held-out"),
  ("eval", "rewards/margins", "reward margin, held-out"),
  ("policy", "reward/true", "true reward of what it writes"),
  ("policy", "kl/sequence", "KL to the reference, nats an answer"),
  ("rollout", "objective/score", "score of roll-outs, first and last tenth"),
  ("rollout", "objective/reward_raw", "the same not normalised, and whatever a missing end does"),
  ("rollout", "value/explained_variance", "variance of returns that the critic explains, first and last tenth"),
]


WRITES = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH")
model = AutoModelForCausalLM.from_pretrained("PATH")
```"""

SCORES = """```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH")
model = AutoModelForSequenceClassification.from_pretrained("PATH")
text = PROMPT_AND_ANSWER{text}
inputs = tokenizer([text], return_tensors="pt", padding=True, add_special_tokens=False)
reward = model(**inputs).logits[:, 0]
```

The reward is read at the last token that is not padding, so the text must end as the answers of the training data
did: with the EOS token, and nothing after it. The pad token is another one than EOS; keep it so. Only differences of
rewards for one prompt mean something: their logistic function is the chance that the first answer is preferred."""

VALUES = """```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH")
model = AutoModelForSequenceClassification.from_pretrained("PATH")
text = PROMPT_AND_ANSWER_SO_FAR  # without the EOS token
inputs = tokenizer([text], return_tensors="pt", padding=True, add_special_tokens=False)
value = model(**inputs).logits[:, 0]
```

The value is read at the last token that is not padding. It is what the policy's return is expected to be from there on:
the score of the whole answer, as the run normalised it, less the KL penalty of the tokens to come. It was trained where a
token follows; of an answer that ends with EOS, read it before that token. It is no reward model: it knows the policy's own
answers, and what it says of others was measured nowhere."""

GOES_ON = """

Another run of dpojax goes on with it, head included: `policy_gradient.critic_path=PATH`. `dpojax_critic` in config.json says
that it is a critic; transformers does not read that key."""


def model_card(
  name: str,
  config: dict[str, Any],
  result: dict[str, Any] | None,
  *,
  method: str,
  step: int | None = None,
  rewards: str = "",
  critic: bool = False,
  critic_start: str = "",
) -> str:
  """A model card in Markdown with the front matter that model hubs read.

  Args:
    name: the model's name, its title.
    config: settings of the run, the JSON form of its config.json.
    result: its result.json, in which a word such as 'tied' may stand for a number; None: it has not ended.
    method: how it was trained, such as "dpo, beta 0.1".
    step: the exported checkpoint; None: the last.
    rewards: of a reward model, what its one score is: which head, and its mean and spread. Empty: it writes.
    critic: of a policy gradient, this is its critic.
    critic_start: where that started, in words.
  """
  recipe, base = config["recipe"], config["model"]["path"]
  start = "a model trained from scratch"
  if base:
    start = f"that of the run's stage {code(base.partition(':')[2])}" if base.startswith("stage:") else code(base)
  tag = {"reward_model": "reward-model", "sft": "sft", "policy_gradient": "policy-gradient"}.get(recipe, "preferences")
  use = SCORES.format(text=_ending(config["data"])) + f"\n\n{rewards}" if rewards else WRITES
  data, made = _data(config["data"]), "Trained"
  if recipe == "policy_gradient":
    data = f"prompts of {data}"
  if critic:
    use, made, start = VALUES, "The critic of a policy trained", f"{start} (the policy)"
    use += GOES_ON
  parts = [
    "---\nlibrary_name: transformers\n"
    f"pipeline_tag: {'text-classification' if rewards or critic else 'text-generation'}\ntags:\n- dpojax\n- {tag}\n---",
    f"# {escape(name)}",
    f"{made} with dpojax {__version__} ({escape(method)}) on {data}, starting from {start}."
    + (f" The critic started from {escape(critic_start)}." if critic_start else ""),
    _results(result, step),
    "## Settings\n\n```json\n" + json_text(config, indent=2) + "\n```",
    f"## Use\n\n{use}",
    "The data's terms and those of the model it starts from apply to this model too. "
    "It was measured only as far as the table says.",
  ]
  return "\n\n".join(part for part in parts if part) + "\n"


def plain_card(name: str, rewards: str = "") -> str:
  """The card of a model that no run of dpojax made: where it is from, and how it is used.

  Args:
    name: of the model as it was given, a path or `hub:NAME`.
    rewards: of a reward model, what its score is; empty: it writes.
  """
  use = SCORES.format(text="  # as its training data were rendered") + f"\n\n{rewards}" if rewards else WRITES
  parts = [
    "---\nlibrary_name: transformers\n"
    f"pipeline_tag: {'text-classification' if rewards else 'text-generation'}\ntags:\n- dpojax\n---",
    f"# {escape(name)}",
    f"Written by dpojax {__version__} from {code(name)}; no weight was trained on the way. The terms of that model apply.",
    f"## Use\n\n{use}",
  ]
  return "\n\n".join(parts) + "\n"


def _ending(data: dict[str, Any]) -> str:
  """Lines of Python that render a conversation as the training data was."""
  if data["template"] == "none":
    return "  # as the data joins them, then tokenizer.eos_token"
  lines = "\n# Of messages:  text = tokenizer.apply_chat_template(messages, tokenize=False)"
  if data["after_eos"] == "drop":
    lines += "\n#               text = text[: text.rindex(tokenizer.eos_token)] + tokenizer.eos_token"
  return lines


def _data(data: dict[str, Any]) -> str:
  if data["source"] == "file":
    return f"the file {code(data['path'])}"
  if data["source"] == "world":
    pairs = "pairs that a model wrote in " if data["path"] else ""
    return f"{pairs}the built-in environment {code(data['name'])}"
  revision = f" at revision {escape(data['revision'])}" if data["revision"] else ""
  return f"{code(data['name'])}{revision}, split {code(data['split'])}"


def _number(value: float | str) -> str:
  """Four digits; what is no number, such as 'tied', as it is."""
  try:
    return f"{float(value):.4g}"
  except ValueError:
    return escape(str(value))


def _results(result: dict[str, Any] | None, step: int | None) -> str:
  if result is None:
    return "The run had not ended when this was exported" + (f" (step {step})." if step is not None else ".")
  rows = []
  for split, metric, words in RESULTS:
    before, after = (result[when].get(split, {}).get(metric) for when in ("before", "after"))
    if before is not None and after is not None:
      rows.append(f"| {words} | {_number(before)} | {_number(after)} |")
  text = f"## Results\n\nMeasured before and after {result['steps']} steps"
  if step is not None and step != result["steps"]:
    text += f"; the weights here are those of step {step}"
  return text + ".\n\n" + "\n".join(["|  | before | after |", "|:--|--:|--:|", *rows]) if rows else text + "."
