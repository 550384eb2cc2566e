"""The first sentences of a page, against runs whose rewards, tokens and labels are laid by hand."""

import pytest
from made_stages import make_comparison, make_experiment

from dpojax.report.comparison_records import comparison_of
from dpojax.report.page.content import content_of, methods_on
from dpojax.report.page.cost_table import costs_of
from dpojax.report.page.summary import summary
from dpojax.report.stages import find_stages


def sentences(folder):
  stages, _ = find_stages([folder])
  comparisons = [found for stage in stages if (found := comparison_of(stage)) is not None]
  methods = methods_on(stages, comparisons, "true")
  return summary(methods, costs_of(methods))


def compared(folder, seed=0, better=0.5):
  made = make_experiment(folder, seed=seed)
  policies = {"sft": (made["sft"], "SFT", 0.0, 0.6)}
  policies |= {name: (made[name], name, kl, kl) for name, kl in (("dpo_2", 1.0), ("dpo_0.5", 2.0), ("dpo_0.1", 4.0))}
  policies |= {name: (made[name], name, kl, kl + better) for name, kl in (("ppo_2", 1.0), ("ppo_4", 3.0))}
  make_comparison(folder / "compared", policies, seed=seed)


def test_it_says_who_is_better_at_what_cost_from_what(tmp_path):
  compared(tmp_path)
  said = " ".join(sentences(tmp_path))
  # the largest KL that both reach; both lie on straight lines, and the errors are those of the fixture
  assert said.startswith(
    "True reward at 2 nats an answer: PPO, learned reward: 2.50 (2.43 to 2.57); DPO: 2.00 (1.90 to 2.10)."
  )
  assert "are fewest of DPO; PPO, learned reward: " in said
  assert "PPO, learned reward: 712 labelled comparisons; DPO: 712 labelled comparisons." in said
  assert said.endswith("1 seed: exploratory. Intervals are 95 %.")


@pytest.mark.slow
def test_eight_seeds_make_no_exploration(tmp_path):
  for seed in range(8):
    compared(tmp_path / str(seed), seed, better=0.4 + 0.02 * seed)
  assert sentences(tmp_path)[-1] == "8 seeds; intervals are 95 % of the mean over them."


def test_one_method_alone_is_not_compared(tmp_path):
  make_experiment(tmp_path, betas=(0.1,))
  stages, problems = find_stages(
    [stage.path for stage in find_stages([tmp_path])[0] if stage.path.name.startswith("dpo")]
  )
  assert content_of(stages, problems).summary == []


@pytest.mark.parametrize("better, first", [(0.5, "PPO"), (-0.5, "DPO")])
def test_the_better_one_is_named_first(tmp_path, better, first):
  compared(tmp_path, better=better)
  assert sentences(tmp_path)[0].partition(": ")[2].startswith(first)
