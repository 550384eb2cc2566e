"""Folders whose pages tests look at."""

from made_stages import make_comparison, make_experiment, make_stage

SCRIPT = "<script>window.attacked = true</script>"
ENDS = '</script><img src=x onerror="window.attacked = true"><!--'
CHINESE = "您好 很抱歉"


def make_hostile(folder):
  """An experiment with a comparison, a run called like a script, and answers that would end one."""
  made = make_experiment(folder, answer=ENDS)
  hostile = make_stage(folder / "a<b>&\"'", "sft", {"data.path": SCRIPT})
  policies = {
    "sft": (made["sft"], "SFT", 0.0, 0.6),
    "dpo_0.1": (made["dpo_0.1"], "DPO, β 0.1", 10.0, 2.9),
    "dpo_0.5": (made["dpo_0.5"], "DPO, β 0.5", 2.0, 2.5),
    "dpo_2": (made["dpo_2"], "DPO, β 2", 0.6, 1.5),
    "ppo_2": (made["ppo_2"], "PPO, learned reward, target 2", 2.0, 2.2),
    "ppo_4": (made["ppo_4"], "PPO, learned reward, target 4", 4.0, 2.0),
    SCRIPT: (hostile, SCRIPT, 1.0, 1.0),
  }
  said = {name: ENDS if name != "sft" else CHINESE for name in policies}
  make_comparison(folder / "compared", policies, answers=said)
  return folder


def make_sixty(folder):
  """Sixty policies with curves of 2,000 steps and long answers."""
  long = "a long answer of many words " * 60
  for seed in range(12):
    make_experiment(folder / f"seed_{seed}", betas=(0.05, 0.1, 0.5), seed=seed, answer=long, steps=2000)
  return folder
