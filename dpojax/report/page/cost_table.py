"""What each method spent with its whole upstream: computation, people's labels, memory."""

from collections.abc import Mapping, Sequence

from dpojax.report.costs import Cost, mean_cost, models_in_memory, parameters
from dpojax.report.frontier import BEST_OF_N
from dpojax.report.page.method_table import Methods
from dpojax.report.page.table import NOTHING, Cell, Table, count, duration, operations
from dpojax.report.stages import Stage

NOTE = (
  "Means over the runs of a method, each with its whole upstream (stages in the order in which they ran): 2 N operations a token that "
  "a model reads or writes and 6 N a token that it is trained on, N parameters without embeddings; each answer with its prompt. "
  "Labels: examples of the comparisons that a loss or a reward model learned from, held-out ones among them. Answers judged: those "
  "of roll-outs that a reward scored which is no model. Looks and evaluations are not counted. Time is that of the steps and "
  "roll-outs as measured, on the device of each run."
)


def costs_of(methods: Methods) -> dict[str, Cost]:
  """The mean cost of each method over its runs that have ended, of all where none has."""
  ended = {name: [stage for stage in runs if stage.record.ended] or runs for name, runs in methods.series.items()}
  return {name: mean_cost(runs) for name, runs in ended.items()}


def cost_table(methods: Methods, costs: Mapping[str, Cost]) -> Table | None:
  """A row for each method with its cost; None where there is no policy."""
  if not methods.series:
    return None
  header = ["method", "runs", "labels", "answers judged", "tokens trained on", "tokens sampled", "operations", "time"]
  header += ["models in memory", "upstream"]
  rows = [_row(name, methods.series.get(name, []), costs.get(name)) for name in methods.names]
  notes = dict.fromkeys(note for cost in costs.values() for note in cost.notes)
  left_out = f" Not counted: {'; '.join(notes)}." if notes else ""
  return Table("costs", "What each method costs", NOTE + left_out, header, rows)


def _row(name: str, stages: Sequence[Stage], cost: Cost | None) -> list[Cell]:
  if cost is None:
    memory = "policy, reward: N answers a prompt, at every use" if name == BEST_OF_N else "-"
    return [Cell(name), *[NOTHING] * 7, Cell(memory), NOTHING]
  memory = models_in_memory(stages[0])
  size = parameters(stages[0].model)
  each = f"a policy of {size:,.0f} parameters without embeddings" if size == size else ""
  return [
    Cell(name),
    count(len(stages)),
    count(cost.labels),
    count(cost.judged),
    count(cost.trained),
    count(cost.sampled),
    operations(cost.flops),
    duration(cost.seconds),
    Cell(f"{len(memory)}: {', '.join(memory)}", float(len(memory)), each),
    Cell(" → ".join([*cost.stages[:-1], name])),
  ]
