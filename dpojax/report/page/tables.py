"""The other tables: reward models beside DPO's implicit reward, policies on each distribution, the tournament, all runs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dpojax.report.comparison_records import Comparison, with_compared
from dpojax.report.costs import examples_of, models_in_memory, own_cost, parameters
from dpojax.report.labels import HELD_OUT
from dpojax.report.methods import Method, differing_settings, method_of, methods_of, spec_of
from dpojax.report.page.table import NOTHING, Cell, Table, bounds, count, duration, number, with_error
from dpojax.report.runs import device_in_words, final_metrics
from dpojax.report.stages import Stage
from dpojax.training.numbers import reward_in_words, tied

ACCURACY, MATCHED = "rewards/accuracies", "accuracy/length_matched"


def bradley_terry_table(stages: Sequence[Stage]) -> Table | None:
  """Reward models and implicit rewards on held-out pairs; None where not both were measured."""
  rows, kinds, data = [], set(), set()
  for stage in stages:
    last = stage.last("eval")
    if stage.recipe not in ("reward_model", "preference") or ACCURACY not in last:
      continue
    model = stage.recipe == "reward_model"
    spec = spec_of(stage)
    if not model and (spec is None or not spec.reads("reference")):
      continue  # its loss has no implicit reward over a reference
    kinds.add(stage.recipe)
    held_out = stage.record.fingerprints.get("held-out data")
    data.add(held_out.digest if held_out else "")
    own = own_cost(stage)
    needs = (
      "one model with a head for the reward; one pass an answer"
      if model
      else "policy and reference; two passes an answer"
    )
    rows.append(
      [
        Cell(stage.name),
        Cell("reward model" if model else f"implicit reward of {method_of(stage).label}"),
        _share(last, ACCURACY, examples_of(held_out)),
        _share(last, MATCHED),
        number(last.get("loss")),
        number(last.get("rewards/margins")),
        Cell(held_out.about if held_out else "-", None, held_out.digest[:12] if held_out else ""),
        count(parameters(stage.model)),
        count(own.trained),
        Cell(needs),
      ]
    )
  if kinds != {"reward_model", "preference"}:
    return None
  header = ["run", "reward", HELD_OUT[ACCURACY].name, HELD_OUT[MATCHED].name, "loss", "margin", "held-out data"]
  header += ["parameters", "tokens trained on", "what it needs to score"]
  same = (
    "All are measured on the same pairs."
    if len(data) == 1
    else "Not all are measured on the same pairs: compare within one."
  )
  note = (
    f"The newest evaluation of each run. {same} Losses of bradley_terry and dpo are the negative log-probability of the labels, in "
    "nats, and margins log-odds: a difference of rewards there, of β (log π - log π of the reference) here. Parameters "
    "without embeddings; tokens of the stage alone, its upstream is in the table of methods."
  )
  return Table("bradley_terry", "Bradley-Terry reward model against DPO's implicit reward", note, header, rows)


def policy_tables(comparisons: Sequence[Comparison]) -> list[Table]:
  """Every policy of the comparisons on each distribution of prompts: the main reward, and what else was measured."""
  if not comparisons:
    return []
  splits = list(dict.fromkeys(split for comparison in comparisons for split in comparison.content["splits"]))
  main_rewards = list(dict.fromkeys(comparison.reward for comparison in comparisons))
  others = list(
    dict.fromkeys(name for c in comparisons for name in c.content.get("rewards", ()) if name not in main_rewards)
  )
  known = methods_of(with_compared([], comparisons))
  first, second = [], []
  for comparison, policy in _in_order(comparisons, known):
    stage = comparison.stage_of(policy)
    label = known[stage.path].label if stage is not None and stage.path in known else str(policy.get("label", ""))
    named = [Cell(f"{comparison.stage.name}:{policy['name']}"), Cell(label)]
    found: list[dict[str, Any]] = [policy["splits"].get(split, {}) for split in splits]
    rewards = [with_error(f.get(f"reward/{r}"), f.get(f"reward/{r}_error")) for f in found for r in main_rewards]
    fraction = bounds(policy.get("share"), policy.get("share_low"), policy.get("share_high"), decimals=1, fraction=True)
    kls = [with_error(f.get("kl"), f.get("kl_error")) for f in found]
    first.append([*named, count(policy.get("step")), kls[0], *rewards, fraction])
    rest = [with_error(f.get(f"reward/{r}"), f.get(f"reward/{r}_error")) for f in found for r in others]
    second.append([*named, *kls[1:], *rest, *(number(f.get("length")) for f in found)])

  def on(words: str, several: Sequence[str] = splits) -> list[str]:
    return [f"{words}, {split}" if split else words for split in several]

  of_rewards = [
    f"{reward_in_words(f'reward/{name}')}, {split}" if split else reward_in_words(f"reward/{name}")
    for split in splits
    for name in main_rewards
  ]
  of_others = [
    f"{reward_in_words(f'reward/{name}')}, {split}" if split else reward_in_words(f"reward/{name}")
    for split in splits
    for name in others
  ]
  answers = ", ".join(dict.fromkeys(str(c.content.get("samples_a_prompt", "?")) for c in comparisons))
  note = (
    f"KL to the reference in nats an answer, and rewards; ± standard error over prompts, of {answers} answers to each. Share: what the "
    "policy gains over the reference, as a fraction of what the oracle gains at the policy's KL, with its 95 % interval."
  )
  header = ["policy", "method", "step", *on("KL", splits[:1]), *of_rewards, "share of the oracle's gain"]
  more = ["policy", "method", *on("KL", splits[1:]), *of_others, *on("length")]
  return [
    Table("policies", "Policies on each distribution of prompts", note, header, first),
    Table(
      "policies_more", "What else was measured there", "± standard error over prompts; lengths in tokens.", more, second
    ),
  ]


def _in_order(
  comparisons: Sequence[Comparison], known: Mapping[Any, Method]
) -> list[tuple[Comparison, Mapping[str, Any]]]:
  """Policies by their methods in the order of the comparisons, and along each by what is turned; the reference first."""
  found = []
  for comparison in comparisons:
    order: dict[str, int] = {}
    keyed = []
    for place, policy in enumerate(comparison.policies):
      stage = comparison.stage_of(policy)
      method = known.get(stage.path) if stage is not None else None
      series = method.series if method else str(policy["name"])
      value = method.value if method and method.value is not None else math.inf
      keyed.append((order.setdefault(series, len(order)), value, place, policy))
    found += [(comparison, policy) for *_, policy in sorted(keyed, key=lambda item: item[:3])]
  return found


def tournament_tables(comparisons: Sequence[Comparison]) -> list[Table]:
  """Strengths of the policies of each comparison that had a tournament."""
  tables = []
  for i, comparison in enumerate(c for c in comparisons if c.content.get("tournament")):
    found = comparison.content["tournament"]
    rows = [
      [
        Cell(str(item["name"])),
        bounds(item.get("strength"), item.get("low"), item.get("high")),
        _ranks(item),
        count(item.get("true_rank")),
        number(item.get("reward")),
        number(item["wins"] / item["games"] if item.get("games") else None, fraction=True),
        count(item.get("games")),
      ]
      for item in found["items"]
    ]
    words = reward_in_words(f"reward/{comparison.reward}")
    header = ["policy", "strength", "rank, 95 % interval", f"rank by {words}", words, "games won", "games"]
    note = (
      f"All policies of {comparison.stage.name} against one another on {found['prompts']:,} prompts, {found['games']:,} games, winners "
      "drawn by Bradley-Terry from the reward; strengths by dpojax.bradley_terry with 95 % intervals. One answer of each policy to a prompt, the first, plays: "
      f"{words} here is the mean of these alone."
    )
    where = f" of {comparison.stage.name}" if len(comparisons) > 1 else ""
    tables.append(Table(f"tournament_{i + 1}", f"Tournament{where}", note, header, rows))
  return tables


def _ranks(item: Mapping[str, Any]) -> Cell:
  low, high = item["rank_low"], item["rank_high"]
  return NOTHING if low is None or high is None else Cell(f"{low} to {high}", float(low))


def runs_table(stages: Sequence[Stage], reward: str | None) -> Table:
  """A row for each run: settings that differ, final metrics, how and where it ran."""
  differ = differing_settings(stages)
  keys = list(dict.fromkeys(key for settings in differ.values() for key in settings))
  metrics = [f"policy/reward/{reward}"] if reward is not None else []
  metrics += [
    "policy/kl/sequence",
    "policy/win_rate",
    "policy/length/policy",
    f"eval/{ACCURACY}",
    "eval/loss",
    "train/loss",
  ]
  finals = [final_metrics(stage) for stage in stages]
  metrics = [metric for metric in metrics if any(metric in final for final in finals)]
  names = {
    "policy/kl/sequence": "KL, nats",
    "policy/win_rate": "win rate",
    "policy/length/policy": "length",
    f"eval/{ACCURACY}": "held-out accuracy",
    "eval/loss": "held-out loss",
    "train/loss": "loss, last tenth",
    f"policy/reward/{reward}": reward_in_words(f"reward/{reward}"),
  }
  header = ["run", "recipe", "method", "seed", "status", "steps", *(names[m] for m in metrics), *keys]
  header += ["time", "device", "commit", "models in memory"]
  rows = []
  for stage, final in zip(stages, finals, strict=True):
    environment, ended = stage.environment, stage.record.ended
    commit = str(environment.get("commit") or "-")[:10]
    changed = environment.get("clean") is False
    learner = stage.recipe not in ("pairs", "best_of_n", "comparison")
    rows.append(
      [
        Cell(stage.name, None, str(stage.path)),
        Cell(stage.recipe),
        Cell(method_of(stage).label),
        count(stage.seed),
        Cell(ended.reason if ended else "unfinished"),
        count(stage.steps) if stage.steps else NOTHING,
        *(_final(final, metric) for metric in metrics),
        *(_setting(differ[stage.name][key]) if key in differ[stage.name] else NOTHING for key in keys),
        duration(stage.seconds),
        Cell(device_in_words(environment.get("device", {})) or "-"),
        Cell(f"{commit}, changed" if changed else commit, None, "the sources had changes" if changed else ""),
        count(len(models_in_memory(stage))) if learner else NOTHING,
      ]
    )
  note = "Metrics of the newest look (one answer a prompt) and evaluation; settings are those that differ between runs of one recipe."
  return Table("runs", "All runs", note, header, rows)


def _final(final: dict[str, float], metric: str) -> Cell:
  if f"{metric}_error" in final:
    return with_error(final[metric], final[f"{metric}_error"])
  return number(final.get(metric), fraction=metric.endswith(("win_rate", ACCURACY)))


def _setting(value: Any) -> Cell:
  if isinstance(value, bool) or not isinstance(value, int | float):
    return Cell("-" if value is None else str(value) or '""')
  return Cell(f"{value:g}", float(value))


def _share(record: Any, name: str, pairs: int = 0) -> Cell:
  """A fraction of pairs in percent, with the standard error of a fraction of so many."""
  if name not in record:
    return NOTHING
  if tied(record, name):
    return Cell("tied")
  value = float(record[name])
  if not pairs:
    return number(value, fraction=True)
  error = math.sqrt(value * (1 - value) / pairs)
  return Cell(f"{100 * value:.1f} ± {100 * error:.1f} %", value, error=error)
