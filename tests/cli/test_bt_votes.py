"""`dpojax bt` on votes of an arena: covariates, clusters, both bad, what to compare next, against arrays written out."""

import collections
import csv
import gzip
import json
import math
import random

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from scipy import optimize

from dpojax.cli.main import main

STRENGTH = {"Ajax": 0.8, "PSV": 0.6, "AZ": 0.0, "Utrecht": -0.5, "Twente": -0.9}


@pytest.fixture
def write(tmp_path):
  def put(text, name="g.csv"):
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)

  return put


def votes(number=700, seed=3):
  """Rows as LMArena's: lengths that move votes, users, ties, and both bad."""
  draw = random.Random(seed)
  names = list(STRENGTH)
  rows = []
  for k in range(number):
    a, b = draw.sample(names, 2)
    x, y = draw.randint(50, 900), draw.randint(50, 900)
    eta = STRENGTH[a] - STRENGTH[b] + 0.002 * (x - y)
    labels = ["model_a", "model_b", "tie", "tie (bothbad)"]
    (winner,) = draw.choices(labels, [math.exp(eta / 2), math.exp(-eta / 2), 0.3, 0.2])
    lead = round(draw.gauss(0, 1), 3)
    rows.append(dict(model_a=a, model_b=b, winner=winner, tokens_a=x, tokens_b=y, lead=lead, user=f"u{k % 40}"))
  return rows


def board_of(path, tmp_path, *options):
  out = tmp_path / "board.json"
  assert main(["bt", str(path), f"--out={out}", *options]) == 0
  return json.loads(out.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def arena(tmp_path_factory):
  path = tmp_path_factory.mktemp("arena") / "votes.json"
  path.write_text(json.dumps(votes()))
  return path


def halves(rows):
  """Arrays of the model in which a tie is half a win: places of both items, what a won, standardised covariates."""
  names = sorted(STRENGTH)
  one, two = (np.array([names.index(row[f"model_{side}"]) for row in rows]) for side in "ab")
  won = np.array([{"model_a": 1.0, "model_b": 0.0}.get(row["winner"], 0.5) for row in rows])
  raw = np.array([[row["tokens_a"] - row["tokens_b"], row["lead"]] for row in rows], float)
  scale = np.sqrt((raw**2).mean(axis=0))
  return one, two, won, raw / scale, scale


def test_covariates_and_clusters_are_those_of_the_likelihood_written_out(arena, tmp_path, capsys):
  """SciPy's optimiser finds the estimate; bread and meat of the sandwich are formed user by user."""
  options = ["--ties=half", "--covariate=tokens_a,tokens_b", "--covariate=lead", "--cluster=user"]
  board = board_of(arena, tmp_path, *options)
  rows = votes()
  one, two, won, x, scale = halves(rows)
  design = np.zeros((len(rows), 7))
  design[np.arange(len(rows)), one] += 1
  design[np.arange(len(rows)), two] -= 1
  design[:, 5:] = x

  def loss(v):
    eta = design @ v
    return (np.logaddexp(0, -eta) * won + np.logaddexp(0, eta) * (1 - won)).sum() + v[:5].sum() ** 2

  best = optimize.minimize(loss, np.zeros(7), method="BFGS", options=dict(gtol=1e-7)).x
  p = 1 / (1 + np.exp(-design @ best))
  scores = design * (won - p)[:, None]
  bread = np.linalg.pinv((design.T * (p * (1 - p))) @ design)
  users = np.array([row["user"] for row in rows])
  sums = np.stack([scores[users == user].sum(axis=0) for user in np.unique(users)])
  errors = np.sqrt(np.diagonal(bread @ sums.T @ sums @ bread) * 40 / 39)

  tokens, lead = board["parameters"]
  assert [tokens["name"], lead["name"]] == ["tokens", "lead"]
  assert [tokens["value"], lead["value"]] == pytest.approx(best[5:], abs=1e-6)
  assert [tokens["scale"], lead["scale"]] == pytest.approx(scale)
  assert [tokens["standard_error"], lead["standard_error"]] == pytest.approx(errors[5:], rel=1e-5)
  assert tokens["value_per_unit"] == pytest.approx(best[5] / scale[0], abs=1e-8)
  assert tokens["high"] - tokens["low"] == pytest.approx(2 * 1.959964 * tokens["standard_error"], rel=1e-6)
  for item in board["items"]:
    place = sorted(STRENGTH).index(item["item"])
    assert item["log_strength"] == pytest.approx(best[place] - best[:5].mean(), abs=1e-6)
    assert item["log_strength_error"] == pytest.approx(errors[place], rel=1e-5)
  assert board["uncertainty"] == {"kind": "cluster", "cluster": "user", "clusters": 40}
  printed = capsys.readouterr().out.splitlines()
  table = printed[printed.index("") + 1 :]
  assert table[0].split() == ["covariate", "coefficient", "error", "95", "%", "interval", "points", "one", "sd", "is"]
  assert table[1].split()[:3] == ["tokens", f"{best[5]:.4f}", f"{errors[5]:.4f}"]
  assert f"{400 / math.log(10) * best[5]:+.0f}" in table[1].split() and f"{scale[0]:.4g}" in table[1].split()
  assert "errors count 40 clusters of 'user' as independent" in printed


def test_exchanging_the_sides_changes_nothing(arena, tmp_path):
  turned = []
  for row in votes():
    winner = {"model_a": "model_b", "model_b": "model_a"}.get(row["winner"], row["winner"])
    other = dict(model_a=row["model_b"], model_b=row["model_a"], winner=winner, user=row["user"])
    turned.append(other | dict(tokens_a=row["tokens_b"], tokens_b=row["tokens_a"], lead=-row["lead"]))
  path = tmp_path / "turned.json"
  path.write_text(json.dumps(turned))
  options = ["--ties=davidson", "--covariate=tokens_a,tokens_b", "--covariate=lead"]
  one, other = (board_of(file, tmp_path, *options) for file in (arena, path))
  for here, there in zip(one["parameters"], other["parameters"], strict=True):
    assert here["value"] == pytest.approx(there["value"], abs=1e-9)
  for here, there in zip(one["items"], other["items"], strict=True):
    assert here["item"] == there["item"] and here["rating"] == pytest.approx(there["rating"], abs=1e-6)


@pytest.mark.parametrize("suffix", ["json", "json.gz", "jsonl", "csv", "parquet"])
def test_files_of_an_arena_need_no_columns_named(suffix, arena, tmp_path):
  rows, path = votes(), tmp_path / f"votes.{suffix}"
  if suffix.startswith("json"):
    text = json.dumps(rows) if "jsonl" not in suffix else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
  elif suffix == "csv":
    with path.open("w", newline="") as file:
      writer = csv.DictWriter(file, rows[0])
      writer.writeheader()
      writer.writerows(rows)
  else:
    parquet.write_table(pa.Table.from_pylist(rows), path)
  options = ["--ties=half", "--covariate=tokens_a,tokens_b", "--cluster=user"]
  one, other = (board_of(file, tmp_path, *options) for file in (arena, path))
  assert one["items"] == other["items"] and one["parameters"] == other["parameters"]
  assert other["options"]["outcome"] == "winner"


def test_a_covariate_of_one_side_is_pointed_out(arena, tmp_path, capsys):
  board_of(arena, tmp_path, "--ties=half", "--covariate=tokens_a", "--covariate=lead")
  said = "warning: --covariate=tokens_a is of one side alone; --covariate=tokens_a,tokens_b is the difference of both"
  error = capsys.readouterr().err
  assert error.count("warning:") == 1 and said in error
  board_of(arena, tmp_path, "--ties=half", "--covariate=tokens_a,tokens_b", "--covariate=lead")
  assert "one side" not in capsys.readouterr().err


@pytest.mark.parametrize("meaning", ["tie", "drop"])
def test_both_bad_is_counted_and_a_tie_unless_it_is_dropped(meaning, arena, tmp_path, capsys):
  board = board_of(arena, tmp_path, "--ties=half", *([] if meaning == "tie" else [f"--both-bad={meaning}"]))
  printed = capsys.readouterr().out
  count = collections.Counter(row["winner"] for row in votes())
  bad = count["tie (bothbad)"]
  assert board["both_bad"] == {"rows": bad, "counted_as": meaning}
  tied = sum(item["ties"] for item in board["items"]) / 2
  assert tied == count["tie"] + (bad if meaning == "tie" else 0)
  assert board["rows"]["dropped"] == (0 if meaning == "tie" else bad)
  said = "counted as ties; --both-bad=drop leaves them out" if meaning == "tie" else "dropped"
  assert f"in {bad:,} of them both were bad: {said}" in printed


def test_names_that_look_alike_are_pointed_out_and_kept_apart(write, tmp_path, capsys):
  games = ["Gpt,gpt ", "gpt ,Gpt", "Gpt,caf\u00e9", "caf\u00e9,cafe\u0301", "cafe\u0301,gpt ", "gpt ,caf\u00e9"] * 4
  board = board_of(write("w,l\n" + "\n".join(games) + "\n"), tmp_path, "--winner=w", "--loser=l")
  printed = capsys.readouterr()
  assert board["similar_names"] == [["Gpt", "gpt "], ["cafe\u0301", "caf\u00e9"]]
  assert len(board["items"]) == 4
  assert "dpojax: warning: 'Gpt' and 'gpt ' differ only in spaces, case or Unicode form" in printed.err
  assert r"warning: 'cafe\u0301' and 'caf\xe9' differ only" in printed.err


def test_pairs_to_compare_next(arena, tmp_path, capsys):
  board = board_of(arena, tmp_path, "--ties=half", "--suggest=3", "--covariate=lead")
  printed = capsys.readouterr().out.splitlines()
  strength = {item["item"]: item["log_strength"] for item in board["items"]}
  met = collections.Counter(frozenset((row["model_a"], row["model_b"])) for row in votes())
  unit = 400 / math.log(10)
  for k, one in enumerate(board["suggestions"]):
    p = 1 / (1 + math.exp(strength[one["b"]] - strength[one["a"]]))
    assert one["probability"] == pytest.approx(p) and one["games"] == met[frozenset((one["a"], one["b"]))]
    if k == 0:
      variance = (one["difference_error"] / unit) ** 2
      assert one["gain"] == pytest.approx(math.log(1 + p * (1 - p) * variance) / 2, rel=1e-9)
  heading = next(k for k, line in enumerate(printed) if line.startswith("compare next"))
  assert [line.split()[:2] for line in printed[heading + 1 : heading + 4]] == [
    [one["a"], one["b"]] for one in board["suggestions"]
  ]


def test_csv_has_a_file_for_each_table(arena, tmp_path, capsys):
  out = tmp_path / "board.csv"
  arguments = ["bt", str(arena), "--ties=davidson", "--covariate=tokens_a,tokens_b", "--suggest=2", f"--out={out}"]
  assert main(arguments) == 0
  names = ["board.csv", "board.parameters.csv", "board.suggestions.csv"]
  assert sorted(path.name for path in tmp_path.iterdir()) == names
  assert [f"written: {tmp_path / name}" for name in names] == capsys.readouterr().err.splitlines()
  with (tmp_path / names[1]).open(newline="") as file:
    rows = list(csv.DictReader(file))
  assert [row["name"] for row in rows] == ["tokens", "log nu"] and float(rows[0]["scale"]) > 100
  assert rows[1]["scale"] == ""
  with (tmp_path / names[2]).open(newline="") as file:
    assert [list(row)[:3] for row in csv.DictReader(file)] == [["a", "b", "probability"]] * 2


def test_resampled_clusters_agree_with_the_sandwich(tmp_path):
  """Every vote stands there three times under one number, so that errors of single rows would be too small by 1.7."""
  path = tmp_path / "votes.json"
  path.write_text(json.dumps([row | dict(vote=k) for k, row in enumerate(votes()) for _ in range(3)]))
  options = ["--ties=half", "--covariate=tokens_a,tokens_b", "--cluster=vote"]
  sandwich, resampled = (board_of(path, tmp_path, *options, *more) for more in ([], ["--bootstrap=150"]))
  assert resampled["uncertainty"]["kind"] == "bootstrap" and resampled["uncertainty"]["clusters"] == 700
  for one, other in zip(sandwich["parameters"], resampled["parameters"], strict=True):
    assert other["standard_error"] == pytest.approx(one["standard_error"], rel=0.25)


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["--covariate=tokens_a,tokens_b,lead"], "--covariate=tokens_a,tokens_b,lead: wanted a column, or two"),
    (["--covariate=lead", "--covariate=lead"], "--covariate=lead: 'lead' is there twice"),
    (["--covariate=words"], "there is no column 'words'"),
    (["--covariate=user"], "row 1: column 'user' holds 'u0'; a covariate is a finite number"),
    (["--cluster=judge"], "there is no column 'judge'"),
    (["--cluster=user", "--covariance=hessian"], "--covariance has no meaning with --cluster"),
    (["--both-bad=error"], "both are bad; choose --both-bad=tie or 'drop'"),
    (["--winner=model_a", "--loser=model_b", "--both-bad=drop"], "--both-bad has no meaning with --winner and --loser"),
    (["--suggest=0"], "argument --suggest: 0 must be from 1"),
  ],
)
def test_what_is_wrong_with_votes_is_one_line(arguments, message, arena, capsys):
  assert main(["bt", str(arena), "--ties=half", *arguments]) == 2
  printed = capsys.readouterr()
  assert printed.out == "" and printed.err.count("\n") == 1 and message in printed.err


@pytest.mark.parametrize(
  "text, message",
  [
    ('{"model_a": 1}', "it holds a dict, not a list of objects"),
    (
      '{"a": 1}\n{"a": 2}\n',
      "not JSON: Extra data: line 2 column 1 (char 9); JSONL, one object a line, is named .jsonl",
    ),
    ('[{"w": 1, "l": 2}, 3]', "row 2: it holds a int, not an object"),
    ('[{"w": 1, "l": 2}, {"w": 1}]', "row 2: there is no column 'l'; there are 'w'"),
    ("[]", "it has no rows"),
    ("[1, 2", "not JSON: Expecting ',' delimiter"),
    ("[" * 100_000, "nested too deeply"),
  ],
)
def test_json_that_is_no_list_of_games(text, message, write, capsys):
  assert main(["bt", write(text, "g.json"), "--winner=w", "--loser=l"]) == 2
  assert message in capsys.readouterr().err
