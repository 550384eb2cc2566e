"""What TRL calls losses of ours: the values of its `loss_type`."""

import difflib
import re
from collections.abc import Iterable

# Of DPOConfig, CPOConfig, KTOConfig, SFTConfig and their predecessors -> ours.
FOREIGN_LOSSES: dict[str, str] = {
  "sigmoid": "dpo",
  "sigmoid_norm": "dpo_norm",
  "robust": "robust_dpo",
  "kto_pair": "kto, on unpaired answers; pairs are split into them",
  "slic": "hinge",
  "js_divergence": "dpo with loss.f_divergence=jensen_shannon",
  "nll": "sft",
  "chunked_nll": "sft",
  "rpo": "dpo with loss.sft_coef",
  "mpo": "a sum of losses, such as 0.8*dpo + 0.2*bco_pair + sft",
  "trdpo": "dpo with reference.kind=moving",
  "wpo": "dpo with loss.wpo",
  "ld_dpo": "dpo with loss.ld_alpha",
}
# Names that both have.
SAME_LOSSES = (
  "hinge",
  "ipo",
  "exo_pair",
  "nca_pair",
  "bco_pair",
  "sppo_hard",
  "aot",
  "aot_unpaired",
  "apo_zero",
  "apo_down",
  "discopop",
  "sft",
  "kto",
  "apo_zero_unpaired",
  "simpo",
  "alphapo",
  "orpo",
  "cpo",
)
# Of SFTConfig and GRPOConfig, which have no counterpart as a loss.
ELSEWHERE = {
  "dft": "recipe=sft has the likelihood alone",
  "grpo": "recipe=policy_gradient with policy_gradient.method=grpo",
  "dr_grpo": "recipe=policy_gradient with policy_gradient.method=dr_grpo",
  "dapo": "recipe=policy_gradient with policy_gradient.method=grpo and policy_gradient.reduction=token",
  "bnpo": "recipe=policy_gradient with policy_gradient.method=grpo and policy_gradient.reduction=token",
  "ppo": "recipe=policy_gradient with policy_gradient.method=ppo",
  "rloo": "recipe=policy_gradient with policy_gradient.method=rloo",
}


def explained_loss(name: str, known: Iterable[str]) -> str:
  """What an unknown loss is called here, or which of `known` it is near to: text behind the error, or ""."""
  lowered = name.lower()
  if lowered in FOREIGN_LOSSES:
    return f"; here it is {FOREIGN_LOSSES[lowered]}"
  if lowered in ELSEWHERE:
    return f"; here it is no loss: {ELSEWHERE[lowered]}"
  known = list(known)
  swapped = [ours for ours in known if sorted(ours) == sorted(lowered)]  # 'dop' is 'dpo' and not 'dpop'
  near = swapped[:1] or difflib.get_close_matches(lowered, known, n=1, cutoff=0.7)
  return f"; did you mean {near[0]!r}?" if near else ""


def as_sum(text: str) -> str:
  """A list of names, as TRL's `loss_type` may be one, as the sum that says the same: "[sigmoid, sft]" -> "dpo + sft"; "" of any other text.

  >>> as_sum("['sigmoid', 'sft']")
  'dpo + sft'
  """
  if set("=*+") & set(text) or not (text.strip().startswith("[") or "," in text):
    return ""
  names: list[str] = re.findall(r"[A-Za-z_]\w*", text)
  return " + ".join(FOREIGN_LOSSES.get(name, name) for name in names)
