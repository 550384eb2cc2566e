"""How a stage's method is called: its series in charts, what was turned on the way along it, and what else differs."""

import dataclasses
import hashlib
import json
import math
import pathlib
import re
from collections.abc import Collection, Sequence
from typing import Any

from dpojax.errors import InputError
from dpojax.report.stages import Stage, natural, readable_stage, source_folders

POLICIES = ("preference", "policy_gradient", "online")  # recipes whose policies a frontier compares
METHODS = {
  "ppo": "PPO",
  "rloo": "RLOO",
  "grpo": "GRPO",
  "dr_grpo": "Dr. GRPO",
  "reinforce": "REINFORCE",
  "preferred_ft": "preferred-FT",
  "simpo": "SimPO",
}
# Settings that are a knob, seeds, where things lie, or only measure.
NO_METHOD = re.compile(
  r"(^|\.)seed$|path$|^(monitor|stop|checkpoint)\.|^loss\.(beta|tau|alpha)$|^rollout\.reward$|^policy_gradient\.kl_(coef|target)$"
)
NO_IDENTITY = re.compile(r"(^|\.)seed$|path$|^(monitor|stop|checkpoint|logging)\.|^rollout\.reward$")
ORIGINS = {
  "model.path": "model",
  "data.path": "data",
  "rollout.reward": "reward",
  "policy_gradient.critic_path": "critic",
}
SIGNS = {"beta": "β", "tau": "τ", "alpha": "α"}  # options that a series may run along  # noqa: RUF001
RECIPES = {"sft": "SFT", "pairs": "pairs", "reward_model": "reward model", "best_of_n": "best of N"}


@dataclasses.dataclass(frozen=True)
class Method:
  """What a stage does, in words.

  Attributes:
    series: "DPO", "PPO, learned reward": points of one series are joined by a line.
    knob: what was turned along it: "β 0.1", "target 2", "KL weight 0.1"; empty where nothing is.
    value: the knob's number; None where there is none.
  """

  series: str
  knob: str = ""
  value: float | None = None

  @property
  def label(self) -> str:
    return f"{self.series}, {self.knob}" if self.knob else self.series


def method_of(stage: Stage) -> Method:
  """The method of a stage, by its settings."""
  if stage.recipe == "preference":
    return _of_loss(stage, "")
  if stage.recipe == "online":
    steps = int(stage.setting("train.steps", 0))
    once = 0 < steps <= int(stage.setting("online.refresh", 0))  # its pairs are those of one roll-out
    return _of_loss(stage, "offline " if once else "online ")
  if stage.recipe == "policy_gradient":
    name = str(stage.setting("policy_gradient.method", ""))
    series = f"{METHODS.get(name, name)}, {reward_kind(stage)} reward"
    if stage.setting("policy_gradient.kl_controller", "fixed") == "fixed":
      return _with(series, "KL weight", stage.setting("policy_gradient.kl_coef"))
    return _with(series, "target", stage.setting("policy_gradient.kl_target"))
  return Method(RECIPES.get(stage.recipe, stage.recipe))


def reward_kind(stage: Stage) -> str:
  """What a stage learns from: "true", "learned", or the setting itself."""
  text = str(stage.setting("rollout.reward", ""))
  if text in ("auto", "true"):
    return "true"
  return "learned" if re.fullmatch(r"(?:[\w.-]+=)?(?:model|implicit):[^\s+,]+", text) else text


def _of_loss(stage: Stage, prefix: str) -> Method:
  from dpojax.losses import get_loss  # JAX

  terms, spec = loss_in_words(stage), spec_of(stage)
  if spec is None:
    return _with(prefix + terms, "β", stage.setting("loss.beta"))
  option = next((option for option in SIGNS if option in get_loss(spec.names[0]).options), None)
  return _with(prefix + terms, SIGNS[option], spec.hyper.get(option)) if option else Method(prefix + terms)


def loss_in_words(stage: Stage) -> str:
  """ "DPO", "DPO + 0.2 SFT": the loss of a stage without its options."""
  name, spec = str(stage.setting("loss.name", "auto")), spec_of(stage)
  if spec is None:
    return _called("dpo" if name == "auto" else name)
  return " + ".join(_called(t.name) if t.weight == 1 else f"{t.weight:g} {_called(t.name)}" for t in spec.terms)


def spec_of(stage: Stage) -> Any:
  """The `losses.spec.LossSpec` of a stage with a loss; None where this version cannot read its settings."""
  from dpojax.losses.spec import loss_spec  # JAX

  options = {key.partition(".")[2]: value for key, value in stage.record.settings.items() if key.startswith("loss.")}
  try:
    return loss_spec(rewards=stage.recipe == "reward_model", **options)
  except (InputError, TypeError):
    return None


def _called(loss: str) -> str:
  known = METHODS.get(loss)
  return known or (loss.upper() if re.fullmatch(r"[a-z]{2,5}", loss) else loss.replace("_", " "))


def _with(series: str, knob: str, value: Any) -> Method:
  return Method(series) if value is None else Method(series, f"{knob} {float(value):g}", float(value))


def differing_settings(stages: Sequence[Stage]) -> dict[str, dict[str, Any]]:
  """Of each stage, by name, the settings in which it differs from another of the same recipe; `seed` is not among them."""
  differ: dict[str, list[str]] = {}
  for recipe in dict.fromkeys(stage.recipe for stage in stages):
    some = [stage.record.settings for stage in stages if stage.recipe == recipe]
    keys = dict.fromkeys(key for settings in some for key in settings)
    differ[recipe] = [key for key in keys if key != "seed" and len({repr(s.get(key)) for s in some}) > 1]
  return {
    stage.name: {key: stage.setting(key) for key in differ[stage.recipe] if key in stage.record.settings}
    for stage in stages
  }


def methods_of(stages: Sequence[Stage], recipes: Collection[str] | None = POLICIES) -> dict[pathlib.Path, Method]:
  """The method of each stage of these recipes (None: of all) by its folder, told apart where settings beside the knob differ.

  Where all runs of a series have the same knob, what else differs is the knob too: "β 0.2, epochs 16". Where the knob
  differs as well, it makes a series of its own: "DPO, learning_rate 0.001". Runs that differ in seeds alone are equal.
  """
  found = {stage.path: method_of(stage) for stage in stages if recipes is None or stage.recipe in recipes}
  _tell_sources_apart(found, stages)
  for series in {method.series for method in found.values()}:
    members = [stage for stage in stages if stage.path in found and found[stage.path].series == series]
    differ = _beside_the_knob(members)
    one_knob = len({found[stage.path].knob for stage in members}) == 1
    for stage in members if differ else ():
      words = ", ".join(f"{key.rpartition('.')[2]} {_short(stage.setting(key))}" for key in differ)
      method = found[stage.path]
      if one_knob:
        found[stage.path] = dataclasses.replace(method, knob=f"{method.knob}, {words}".removeprefix(", "))
      else:
        found[stage.path] = dataclasses.replace(method, series=f"{series}, {words}")
  return found


def _tell_sources_apart(found: dict[pathlib.Path, Method], stages: Sequence[Stage]) -> None:
  """Adds to a series what its runs start or learn from, where that differs: another model, data or reward model."""
  for series in {method.series for method in found.values()}:
    members = [stage for stage in stages if stage.path in found and found[stage.path].series == series]
    origins = {stage.path: origins_of(stage) for stage in members}
    for key in dict.fromkeys(key for origin in origins.values() for key in origin):
      several = {origin[key][1] for origin in origins.values() if key in origin}
      if len(several) < 2:
        continue
      names = {origin[key] for origin in origins.values() if key in origin}
      ambiguous = len({name for name, _ in names}) < len(several)
      for stage in members:
        if key in origins[stage.path]:
          name, identity = origins[stage.path][key]
          method = found[stage.path]
          told = f"{key} {name}" + (f" {identity[:4]}" if ambiguous else "")
          found[stage.path] = dataclasses.replace(method, series=f"{method.series}, {told}")


def origins_of(stage: Stage) -> dict[str, tuple[str, str]]:
  """What a stage starts and learns from: "model" or "data" or "reward" or "critic" -> (name, what makes it the same as another's).

  Of a stage that is what it was made with, seeds left out, and of what it was itself made from; of a path the path, and of a file
  of data its content.
  """
  found = {}
  folders = source_folders(stage)
  for key, word in ORIGINS.items():
    source = readable_stage(folders.get(key))
    path = str(stage.setting(key, "") or "")
    if source is not None:
      found[word] = source.path.name, _identity(source)
    elif path and not path.startswith("stage:") and (key != "rollout.reward" or reward_kind(stage) == "learned"):
      print_of = stage.record.fingerprints.get("training data" if key == "data.path" else "")
      found[word] = pathlib.PurePath(path).name, digest_of([path, print_of.digest if print_of else ""])
  return found


def _identity(stage: Stage) -> str:
  """What a stage was made with, and from, apart from seeds and what only measures."""
  settings = {key: value for key, value in stage.record.settings.items() if not NO_IDENTITY.search(key)}
  return digest_of([settings, {key: identity for key, (_, identity) in origins_of(stage).items()}])


def digest_of(value: Any) -> str:
  return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def setting_order(method: Method) -> tuple[float, list[tuple[bool, float, str]]]:
  """What settings of one method are sorted by: the knob's number, then what else differs."""
  return (-math.inf if method.value is None else method.value, natural(method.knob))


def in_order(stages: Sequence[Stage]) -> list[Stage]:
  """Methods in the order in which they come first; in each its settings by their number, and seeds of a setting together."""
  found = methods_of(stages, None)
  series = list(dict.fromkeys(method.series for method in found.values()))

  def key(stage: Stage) -> tuple:
    method = found[stage.path]
    return series.index(method.series), setting_order(method), stage.seed

  return sorted(stages, key=key)


def _beside_the_knob(stages: Sequence[Stage]) -> list[str]:
  """Settings other than the knob and seeds in which runs of a series differ, and that change what is learned."""
  settings = [stage.record.settings for stage in stages]
  keys = dict.fromkeys(key for one in settings for key in one if not NO_METHOD.search(key))
  return [key for key in keys if len({repr(one.get(key)) for one in settings}) > 1]


def _short(value: Any) -> str:
  return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
