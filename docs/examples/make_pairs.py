"""Writes pairs.jsonl for the page "The classic recipe": 240 letters to a shop, each with a kind and a curt answer.

python make_pairs.py
"""

import itertools
import json
import random

THINGS = [
  "kettle",
  "lamp",
  "bicycle",
  "radio",
  "chair",
  "oven",
  "watch",
  "camera",
  "printer",
  "heater",
  "tent",
  "keyboard",
]
PROBLEMS = {
  "arrived broken": "We will send you a new one today.",
  "never arrived": "I will ask the carrier and write to you tomorrow.",
  "makes a strange noise": "Please send us a short recording, and we will find the part.",
  "stopped working after a week": "Please send it back at our cost, and we will repair it.",
}
OPENINGS = (
  "Hello, my {} {}.",
  "The {} that I ordered {}.",
  "I am writing because my {} {}.",
  "Good morning. My {} {}.",
)
ENDINGS = ("What can you do?", "")
SORRY = (
  "I am sorry about your {}.",
  "Thank you for telling us about the {}.",
  "I am sorry to hear that, and the {} is our fault.",
)
CURT = (
  "That is not our problem. Read the manual of the {} and do not write to us again.",
  "We do not take a {} back. You should have looked at it before you paid for it.",
  "Every {} does that. Nobody else has written to us, so it must be your own fault.",
)


def main() -> None:
  draw = random.Random(0)
  rows = []
  for thing, (problem, help_), opening, ending in itertools.product(THINGS, PROBLEMS.items(), OPENINGS, ENDINGS):
    kind = f"{draw.choice(SORRY).format(thing)} {help_}"
    rows.append(
      {
        "prompt": f"{opening.format(thing, problem)} {ending}".strip(),
        "chosen": kind,
        "rejected": draw.choice(CURT).format(thing),
      }
    )
  draw.shuffle(rows)
  with open("pairs.jsonl", "w", encoding="utf-8") as file:
    file.writelines(json.dumps(row) + "\n" for row in rows[:240])


if __name__ == "__main__":
  main()
