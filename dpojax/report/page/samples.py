"""Answers of all policies to the same prompts under the same random keys, side by side."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dpojax.report.comparison_records import Comparison
from dpojax.report.methods import POLICIES, method_of
from dpojax.report.samples import display_of, prompt_in_words
from dpojax.report.stages import LOOK_KEYS, Stage
from dpojax.terminal import shown
from dpojax.training.numbers import reward_in_words

MOST_BYTES, LONGEST = 1_200_000, 3000  # of all answers on a page, as JSON; characters of one answer


def sample_sets(stages: Sequence[Stage], comparisons: Sequence[Comparison]) -> tuple[list[dict[str, Any]], str]:
  """(sets of prompts that the same policies answered, what was left out; "").

  A set is {"name", "policies": [{"name", "label"}], "prompts": [{"prompt", "answers": [[policy, text, caption], ...]}]};
  `policy` counts in `policies`. Each split of a comparison is a set, and the newest looks of runs that looked under
  the same settings are one.
  """
  sets = [found for comparison in comparisons for found in _of_comparison(comparison)]
  covered = {stage.path for c in comparisons for p in c.policies if (stage := c.stage_of(p)) is not None}
  sets += _while_training([stage for stage in stages if stage.path not in covered])
  if not sets:
    return [], ""
  budget, shown, total = MOST_BYTES // len(sets), 0, 0
  for one in sets:
    size, kept = 0, []
    for prompt in one["prompts"]:
      size += len(json.dumps(prompt))
      if kept and size > budget:
        break
      kept.append(prompt)
    total += len(one["prompts"])
    shown += len(kept)
    one["prompts"] = kept
  return sets, f"{shown:,} of {total:,} prompts are on this page" if shown < total else ""


def _of_comparison(comparison: Comparison) -> list[dict[str, Any]]:
  policies = [{"name": str(p["name"]), "label": _label(comparison, p)} for p in comparison.policies]
  number = {policy["name"]: i for i, policy in enumerate(policies)}
  show = _display(comparison.stage)
  sets = []
  for split in comparison.content["splits"]:
    prompts = []
    for record in comparison.answers:
      if record.get("split", "") != split:
        continue
      answers = [
        [number[name], text_of(answer["text"], show), caption(answer)]
        for name, answer in record["answers"].items()
        if name in number
      ]
      prompts.append({"prompt": text_of(record["prompt"], show), "answers": sorted(answers)})
    if prompts:
      name = f"{comparison.stage.name}, {split}" if split else comparison.stage.name
      sets.append({"name": name, "policies": policies, "prompts": prompts})
  return sets


def _label(comparison: Comparison, policy: Mapping[str, Any]) -> str:
  """The method of a policy as the rest of the page calls it; of one from outside as the comparison does."""
  stage = comparison.stage_of(policy)
  return method_of(stage).label if stage is not None else str(policy.get("label", ""))


def _while_training(stages: Sequence[Stage]) -> list[dict[str, Any]]:
  groups: dict[tuple, list[Stage]] = {}
  for stage in stages:
    if stage.recipe in POLICIES:
      groups.setdefault((stage.seed, *(repr(stage.setting(f"monitor.{key}")) for key in LOOK_KEYS)), []).append(stage)
  sets = []
  for members in groups.values():
    policies, prompts = [], {}
    for stage in members:
      newest = stage.samples()
      if newest is None:
        continue
      step, records = newest
      show = _display(stage)
      policies.append({"name": stage.name, "label": f"{method_of(stage).label}, step {step:,}"})
      for record in records:
        text = text_of(record["prompt"], show)
        prompts.setdefault(text, []).append([len(policies) - 1, text_of(record["answer"], show), caption(record)])
    if prompts:
      several = [{"prompt": prompt, "answers": answers} for prompt, answers in prompts.items()]
      several.sort(key=lambda one: -len(one["answers"]))  # a stable sort: those that all have answered first
      sets.append({"name": "newest looks", "policies": policies, "prompts": several})
  if len(sets) > 1:
    for i, one in enumerate(sets, start=1):
      one["name"] = f"newest looks, settings {i}"
  return sets


def caption(answer: dict[str, Any]) -> str:
  """ "22 tokens, true reward 3.40, cut off"."""
  parts = [f"{answer['tokens']} tokens"] if "tokens" in answer else []
  parts += [
    f"{reward_in_words(f'reward/{name}')} {float(value):.2f}" for name, value in (answer.get("rewards") or {}).items()
  ]
  return ", ".join(parts if answer.get("finished", True) else [*parts, "cut off"])


def _display(stage: Stage) -> Callable[[str], str]:
  return display_of(stage.setting("data.source"), stage.setting("data.name"))


def text_of(prompt: Any, display: Callable[[str], str] = str) -> str:
  """A prompt or an answer as a person reads it: of messages each under its role; without control characters, and cut where it
  is very long."""
  text = shown(display(prompt_in_words(prompt)))
  return text if len(text) <= LONGEST else f"{text[:LONGEST]} … (cut here)"
