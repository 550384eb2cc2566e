"""The other tables: reward models beside DPO's implicit reward, policies on each distribution, the tournament, all runs."""

from collections.abc import Sequence
from typing import Any

from dpojax.report.comparison_records import Comparison
from dpojax.report.costs import models_in_memory, own_cost, parameters
from dpojax.report.labels import HELD_OUT
from dpojax.report.methods import differing_settings, method_of, spec_of
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
        _share(last, ACCURACY),
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


def policy_table(comparisons: Sequence[Comparison]) -> Table | None:
  """Every policy of the comparisons on each distribution of prompts; None where there is no comparison."""
  if not comparisons:
    return None
  splits = list(dict.fromkeys(split for comparison in comparisons for split in comparison.content["splits"]))
  rewards = list(dict.fromkeys(name for c in comparisons for name in (c.reward, *c.content.get("rewards", ()))))
  header = ["policy", "method", "step", "share of the oracle's gain"]
  for split in splits:
    at = f", {split}" if split else ""
    header += [f"KL{at}", *(f"{reward_in_words(f'reward/{name}')}{at}" for name in rewards), f"length{at}"]
  rows = []
  for comparison in comparisons:
    for policy in comparison.policies:
      share = bounds(policy.get("share"), policy.get("share_low"), policy.get("share_high"), decimals=1, share=True)
      cells = [
        Cell(f"{comparison.stage.name}:{policy['name']}"),
        Cell(str(policy.get("label", ""))),
        count(policy.get("step")),
      ]
      cells.append(share)
      for split in splits:
        found: dict[str, Any] = policy["splits"].get(split, {})
        cells.append(with_error(found.get("kl"), found.get("kl_error")))
        cells += [with_error(found.get(f"reward/{r}"), found.get(f"reward/{r}_error")) for r in rewards]
        cells.append(number(found.get("length")))
      rows.append(cells)
  note = (
    "KL to the reference in nats an answer, rewards; ± standard error over prompts. Share: what the policy gains over the "
    "reference, as a share of what the oracle gains at the policy's KL, with its 95 % interval."
  )
  return Table("policies", "Policies on each distribution of prompts", note, header, rows)


def tournament_tables(comparisons: Sequence[Comparison]) -> list[Table]:
  """Strengths of the policies of each comparison that had a tournament."""
  tables = []
  for i, comparison in enumerate(c for c in comparisons if c.content.get("tournament")):
    found = comparison.content["tournament"]
    rows = [
      [
        Cell(str(item["name"])),
        bounds(item.get("strength"), item.get("low"), item.get("high")),
        Cell(f"{item['rank_low']} to {item['rank_high']}", float(item["rank_low"])),
        count(item.get("true_rank")),
        number(item.get("reward")),
        number(item["wins"] / item["games"] if item.get("games") else None, share=True),
        count(item.get("games")),
      ]
      for item in found["items"]
    ]
    words = reward_in_words(f"reward/{comparison.reward}")
    header = ["policy", "strength", "rank, 95 % interval", f"rank by {words}", words, "games won", "games"]
    note = (
      f"All policies of {comparison.stage.name} against one another on {found['prompts']:,} prompts, {found['games']:,} games, winners "
      "drawn by Bradley-Terry from the reward; strengths by `dpojax.bradley_terry` with 95 % intervals."
    )
    where = f" of {comparison.stage.name}" if len(comparisons) > 1 else ""
    tables.append(Table(f"tournament_{i + 1}", f"Tournament{where}", note, header, rows))
  return tables


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
  note = "Metrics of the newest look and evaluation; settings are those that differ between runs of one recipe."
  return Table("runs", "All runs", note, header, rows)


def _final(final: dict[str, float], metric: str) -> Cell:
  if f"{metric}_error" in final:
    return with_error(final[metric], final[f"{metric}_error"])
  return number(final.get(metric), share=metric.endswith(("win_rate", ACCURACY)))


def _setting(value: Any) -> Cell:
  if isinstance(value, bool) or not isinstance(value, int | float):
    return Cell("-" if value is None else str(value) or '""')
  return Cell(f"{value:g}", float(value))


def _share(record: Any, name: str) -> Cell:
  return Cell("tied") if name in record and tied(record, name) else number(record.get(name), share=True)
