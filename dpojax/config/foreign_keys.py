"""What other libraries call our settings, and settings that they have and we refuse, with the reason."""

WHOLE = (
  "roll-outs are drawn from the whole distribution at rollout.temperature; what changes it further (top-k, a nucleus, a "
  "shortest length) makes ratio and KL those of another policy than the one that is trained"
)
REFUSED = {
  "rollout.top_k": f"{WHOLE}. Looks may have it: monitor.top_k",
  "rollout.top_p": f"{WHOLE}. Looks may have it: monitor.top_p",
} | {f"rollout.{name}": WHOLE for name in ("min_p", "min_tokens", "min_length", "repetition_penalty")}

# Names in TRL, verl and OpenRLHF -> ours, with a remark where the value is another. First of policy gradients.
FOREIGN = {
  "num_ppo_epochs": "policy_gradient.epochs",
  "ppo_epochs": "policy_gradient.epochs",
  "num_iterations": "policy_gradient.epochs",
  "num_mini_batches": "policy_gradient.minibatches",
  "mini_batch_size": "batch.size, prompts of a minibatch",
  "per_device_train_batch_size": "batch.size, prompts of a minibatch over all devices",
  "cliprange": "policy_gradient.clip",
  "clip_range": "policy_gradient.clip",
  "epsilon": "policy_gradient.clip",
  "cliprange_value": "policy_gradient.value_clip",
  "delta": "policy_gradient.dual_clip",
  "vf_coef": "policy_gradient.value_coef",
  "lam": "policy_gradient.gae_lambda",
  "lambda": "policy_gradient.gae_lambda",
  "init_kl_coef": "policy_gradient.kl_coef",
  "beta": "policy_gradient.kl_coef",
  "target": "policy_gradient.kl_target",
  "horizon": "policy_gradient.kl_horizon",
  "adap_kl_ctrl": "policy_gradient.kl_controller=adaptive",
  "kl_penalty": "policy_gradient.kl, reward or loss",
  "kl_estimator": "policy_gradient.kl: reward is k1, loss is k3",
  "target_kl": "policy_gradient.update_kl_limit, half the mean squared log-ratio of a token",
  "whiten_advantages": "policy_gradient.whiten",
  "normalize_advantage": "policy_gradient.whiten",
  "scale_rewards": "policy_gradient.method=dr_grpo, which divides by no standard deviation",
  "loss_type": "policy_gradient.reduction; loss_type=dr_grpo is policy_gradient.method=dr_grpo",
  "ent_coef": "policy_gradient.entropy_coef",
  "value_model_path": "policy_gradient.critic_path",
  "num_generations": "rollout.samples",
  "rloo_k": "rollout.samples",
  "response_length": "rollout.max_tokens",
  "max_new_tokens": "rollout.max_tokens",
  "max_completion_length": "rollout.max_tokens",
  "max_prompt_length": "data.max_prompt",
  "stop_token": "rollout.stop; an EOS ends every answer",
  "missing_eos_penalty": "rollout.eos_penalty with rollout.missing_eos=subtract",
  "non_eos_penalty": "rollout.eos_penalty with rollout.missing_eos=replace",
  "penalty_reward_value": "rollout.eos_penalty with rollout.missing_eos=replace",
  "use_score_scaling": "rollout.normalise",
  "reward_model_path": "rollout.reward=model:PATH",
  "reward_funcs": "rollout.reward=python:FILE:FUNCTION",
  "sft_model_path": "model.path",
  "ref_policy_path": "reference.path",
  "total_episodes": "train.steps, or train.epochs over the prompts",
  "learning_rate": "optimizer.learning_rate",
  "lr": "optimizer.learning_rate",
  "num_sample_generations": "monitor.every, steps between looks at the policy, and monitor.show, how many answers are shown",
}
# Of training on data, as TRL's trainers have it.
TRAINING = {
  "model_name_or_path": "model.path",
  "dtype": "model.precision",
  "torch_dtype": "model.precision",
  "bf16": "model.precision=bfloat16",
  "fp16": "model.precision, float32 or bfloat16; float16 needs its losses scaled and is not offered",
  "gradient_checkpointing": "model.remat: none, layer or dots",
  "dataset_name": "data.name",
  "dataset_text_field": "data.columns=text=COLUMN",
  "chat_template_path": "data.template",
  "max_length": "data.max_example, tokens of an example; batch.row_length is how long a packed row is",
  "max_completion_length": "data.max_answer of the data, rollout.max_tokens of roll-outs",
  "truncation_mode": "data.overlong",
  "per_device_train_batch_size": "batch.size, examples of a whole step over all devices (policy gradients: prompts of a minibatch)",
  "per_device_eval_batch_size": "batch.rows, packed rows that go through at once",
  "gradient_accumulation_steps": "batch.size, examples of a whole step, whatever goes through at once (batch.rows)",
  "loss_type": "loss.name (of policy gradients policy_gradient.reduction; loss_type=dr_grpo is policy_gradient.method=dr_grpo)",
  "loss_weights": "loss.name, a sum such as dpo+0.2*sft",
  "rpo_alpha": "loss.sft_coef",
  "use_weighting": "loss.wpo",
  "f_divergence_type": "loss.f_divergence",
  "f_alpha_divergence_coef": "loss.divergence_alpha",
  "center_rewards_coefficient": "loss.centring",
  "simpo_gamma": "loss.gamma",
  "cpo_alpha": "loss.alpha",
  "discopop_tau": "loss.tau",
  "reference_free": "loss.name, of a loss without a reference, such as simpo, cpo or orpo",
  "precompute_ref_log_probs": "reference.kind=cache",
  "precompute_ref_batch_size": "batch.rows, packed rows that go through at once",
  "sync_ref_model": "reference.kind=moving",
  "ref_model_mixup_alpha": "reference.mix",
  "ref_model_sync_steps": "reference.every",
  "optim": "optimizer.name",
  "lr_scheduler_type": "optimizer.schedule",
  "warmup_ratio": "optimizer.warmup_steps, in steps",
  "max_grad_norm": "optimizer.clip_norm",
  "adam_beta1": "optimizer.b1",
  "adam_beta2": "optimizer.b2",
  "adam_epsilon": "optimizer.eps",
  "num_train_epochs": "train.epochs",
  "max_steps": "train.steps",
  "logging_steps": "train.log_every",
  "eval_steps": "evaluation.every; monitor.every is that of looks at what the policy writes",
  "eval_strategy": "evaluation.every, in steps",
  "report_to": "logging.tensorboard; metrics.jsonl has every figure",
  "save_steps": "checkpoint.every",
  "save_strategy": "checkpoint.every, in steps",
  "save_total_limit": "checkpoint.keep",
  "load_best_model_at_end": "checkpoint.best_metric, whose best checkpoint is kept too",
  "metric_for_best_model": "checkpoint.best_metric",
  "greater_is_better": "checkpoint.best_mode",
}
# Names of what is always so here, or is said elsewhere than in the config.
NEEDLESS = {
  "output_dir": "where a run is written is said by --workdir",
  "resume_from_checkpoint": "the same command goes on from the newest checkpoint",
  "disable_dropout": "there is no dropout",
  "padding_free": "rows are always packed",
  "packing": "rows are always packed",
  "pad_token": "rows are packed, so that nothing is padded",
  "pad_to_multiple_of": "rows are packed, so that nothing is padded",
  "trust_remote_code": "code of a model folder is never run",
  "model_init_kwargs": "what a model may be told is in the section model",
  "router_aux_loss_coef": "there are no mixtures of experts",
  "use_liger_kernel": "the logits of a row are never all formed",
  "remove_unused_columns": "columns that nothing reads are named, and left out by data.columns=-NAME",
  "dataset_num_proc": "tokenisers use every processor",
}
OWN = (
  "policy_gradient",
  "rollout",
)  # sections in which a name of another library is meant, even where we have it elsewhere

# (recipe, key of ours that it does not read) -> what does the same there.
INSTEAD = {
  ("policy_gradient", "loss.beta"): "the weight of KL is policy_gradient.kl_coef",
  ("policy_gradient", "loss.name"): "what is minimised is set by policy_gradient.method",
  ("best_of_n", "loss.beta"): "nothing is trained",
}


def explained(key: str, ours: set[str]) -> str:
  """Why a key that is none of ours is refused, or what it is called here: text behind `unknown key 'x'`, or "".

  Args:
    key: dotted, or the last part of one alone.
    ours: last parts of our own keys.
  """
  section, _, name = key.rpartition(".")
  section = section.rpartition(".")[2]  # of an experiment of several stages
  if (reason := REFUSED.get(f"{section or 'rollout'}.{name}")) and (section or name not in ours):
    return f": {reason}"
  names = TRAINING | FOREIGN if section in OWN else FOREIGN | TRAINING
  if name in names and (section in OWN or name not in ours):
    return f"; here it is {names[name]}"
  if name in NEEDLESS and name not in ours:
    return f"; it needs no key: {NEEDLESS[name]}"
  return ""
