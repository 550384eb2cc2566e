"""`dpojax bt` from file to leaderboard, against counts and a likelihood in plain Python; options, errors, exit codes."""

import collections
import csv
import json
import math
import random

import pytest

from dpojax.cli.main import main

STRENGTH = {"Ajax": 0.8, "PSV": 0.6, "AZ": 0.0, "Utrecht": -0.5, "Twente": -0.9}
COLUMNS = ["--a=home", "--b=away", "--outcome=result", "--map", "H=a", "D=tie", "A=b", "postponed=drop"]


def played(games=900, seed=5):
  draw = random.Random(seed)
  rows = []
  for k in range(games):
    a, b = draw.sample(list(STRENGTH), 2)
    neutral = draw.random() < 0.2
    eta = STRENGTH[a] - STRENGTH[b] + (0 if neutral else 0.4)
    result = draw.choices("HDA", [math.exp(eta / 2), 0.8, math.exp(-eta / 2)])[0]
    rows.append(dict(home=a, away=b, result="postponed" if k % 100 == 7 else result, neutral=neutral))
  return rows


@pytest.fixture(scope="module")
def games(tmp_path_factory):
  path = tmp_path_factory.mktemp("games") / "games.csv"
  with path.open("w", newline="") as file:
    writer = csv.DictWriter(file, ["home", "away", "result", "neutral"])
    writer.writeheader()
    writer.writerows(played())
  return str(path)


@pytest.fixture
def write(tmp_path):
  def put(text, name="g.csv"):
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)

  return put


def davidson(rows, strength, home, log_nu):
  """The log-likelihood, game by game."""
  total = 0.0
  for row in rows:
    if row["result"] == "postponed":
      continue
    eta = strength[row["home"]] - strength[row["away"]] + (0 if row["neutral"] else home)
    weights = dict(H=math.exp(eta / 2), D=math.exp(log_nu), A=math.exp(-eta / 2))
    total += math.log(weights[row["result"]] / sum(weights.values()))
  return total


def test_from_file_to_leaderboard(games, tmp_path, capsys):
  out, plot = tmp_path / "board.json", tmp_path / "board.png"
  options = ["--ties=davidson", "--home", "--neutral=neutral", f"--out={out}", f"--plot={plot}"]
  assert main(["bt", games, *COLUMNS, *options]) == 0
  printed = capsys.readouterr()
  board = json.loads(out.read_text(encoding="utf-8"))
  rows = played()
  tally = collections.Counter()
  for row in rows:
    for side, won, lost in (("home", "H", "A"), ("away", "A", "H")):
      kind = {won: "wins", lost: "losses", "D": "ties"}.get(row["result"])
      if kind:
        tally[row[side], kind] += 1
        tally[row[side], "games"] += 1
  for item in board["items"]:
    for kind in ("games", "wins", "losses", "ties"):
      assert item[kind] == tally[item["item"], kind]
    assert item["rating"] == pytest.approx(1000 + 400 / math.log(10) * item["log_strength"])
    assert item["rating_error"] == pytest.approx(400 / math.log(10) * item["log_strength_error"])
    assert item["low"] < item["rating"] < item["high"]
    assert item["high"] - item["low"] == pytest.approx(2 * 1.959964 * item["rating_error"], rel=1e-6)
    assert item["rank_low"] <= item["rank"] <= item["rank_high"]
  assert [item["rank"] for item in board["items"]] == [1, 2, 3, 4, 5]
  assert board["rows"] == {"read": 900, "dropped": 9}
  assert board["comparisons"] == 891
  assert board["converged"] and board["gradient_norm"] < 1e-10
  assert board["connectivity"]["connected"]
  assert [row["name"] for row in board["parameters"]] == ["home advantage", "log nu"]

  # No step from the estimate makes the games likelier, and the curvature there is what the errors say.
  strength = {item["item"]: item["log_strength"] for item in board["items"]}
  home, log_nu = (row["value"] for row in board["parameters"])
  best = davidson(rows, strength, home, log_nu)
  assert board["log_likelihood"] == pytest.approx(best, abs=1e-6)
  for step in (0.01, -0.01):
    for name in STRENGTH:
      assert davidson(rows, strength | {name: strength[name] + step}, home, log_nu) < best
    assert davidson(rows, strength, home + step, log_nu) < best
    assert davidson(rows, strength, home, log_nu + step) < best
  assert abs(home - 0.4) < 3 * board["parameters"][0]["standard_error"]

  lines = printed.out.splitlines()
  assert lines[0].split() == ["rank", "item", "rating", "95", "%", "interval", "ranks", "games", "won", "lost", "tied"]
  assert [line.split()[1] for line in lines[1:6]] == [item["item"] for item in board["items"]]
  assert f"home advantage: {home:.4f} ± {board['parameters'][0]['standard_error']:.4f}" in printed.out
  share = 100 * math.exp(log_nu) / (2 + math.exp(log_nu))
  assert f"log nu: {log_nu:.4f} ± {board['parameters'][1]['standard_error']:.4f}" in printed.out
  assert f"equals tie {share:.1f} %" in printed.out
  assert "900 rows read, 9 of them dropped: 891 comparisons of 5 items" in printed.out
  assert printed.err == f"written: {out}\nwritten: {plot}\n"
  assert plot.read_bytes()[1:4] == b"PNG"
  assert sorted(path.name for path in tmp_path.iterdir()) == ["board.json", "board.png"]  # no parts left behind


def test_the_table_as_csv(games, tmp_path):
  out = tmp_path / "board.csv"
  assert main(["bt", games, *COLUMNS, "--ties=half", f"--out={out}", "--baseline=AZ", "--offset=1500"]) == 0
  with out.open(newline="") as file:
    rows = list(csv.DictReader(file))
  az = next(row for row in rows if row["item"] == "AZ")
  assert float(az["log_strength"]) == 0 and float(az["rating"]) == 1500
  assert len(rows) == 5


def test_a_scale_and_level_of_ones_own(games, tmp_path):
  boards = []
  for name, more in (("a", []), ("b", ["--scale=1", f"--base={math.e}", "--offset=0", "--level=0.5"])):
    assert main(["bt", games, *COLUMNS, "--ties=half", f"--out={tmp_path / name}.json", *more]) == 0
    boards.append(json.loads((tmp_path / f"{name}.json").read_text())["items"])
  for one, other in zip(*boards, strict=True):
    assert other["rating"] == pytest.approx(other["log_strength"], abs=1e-12)
    assert other["log_strength"] == pytest.approx(one["log_strength"])
    assert other["high"] - other["low"] == pytest.approx(2 * 0.6744898 * other["log_strength_error"])


def test_a_bootstrap_is_reproducible_and_near_the_curvature(games, tmp_path, capsys):
  boards = []
  for name, more in (("a", []), ("b", ["--bootstrap=200", "--seed=3"]), ("c", ["--bootstrap=200", "--seed=3"])):
    assert main(["bt", games, *COLUMNS, "--ties=davidson", "--home", f"--out={tmp_path / name}.json", *more]) == 0
    boards.append(json.loads((tmp_path / f"{name}.json").read_text()))
  assert boards[1]["items"] == boards[2]["items"]
  assert boards[1]["uncertainty"] == {"kind": "bootstrap", "resamples": 200, "seed": 3, "without_estimate": 0}
  for one, other in zip(boards[0]["items"], boards[1]["items"], strict=True):
    assert other["interval"] == "bootstrap"
    assert other["rating"] == one["rating"]
    assert other["low"] < other["rating"] < other["high"]
    assert other["rating_error"] == pytest.approx(one["rating_error"], rel=0.3)
  for one, other in zip(boards[0]["parameters"], boards[1]["parameters"], strict=True):
    assert other["standard_error"] == pytest.approx(one["standard_error"], rel=0.3)
  assert "errors, intervals and ranks by 200 resamples" in capsys.readouterr().out


def test_winner_and_loser_from_jsonl(write, tmp_path, capsys):
  text = "".join(json.dumps(dict(w=w, l=x)) + "\n" for w, x in [(1, 2), (2, 1), (1, 2), (3, 1), (2, 3)] * 5)
  out = tmp_path / "b.json"
  arguments = ["--winner=w", "--loser=l", f"--out={out}", "--covariance=sandwich", "--prior=normal:2"]
  assert main(["bt", write(text, "g.jsonl"), *arguments]) == 0
  board = json.loads(out.read_text())
  assert sorted(item["item"] for item in board["items"]) == [1, 2, 3]
  assert board["prior"] == {"normal": 2.0}
  assert board["uncertainty"] == {"kind": "sandwich"}
  assert "prior: normal:2" in capsys.readouterr().out


ISLANDS = "w,l\na,b\nb,a\na,b\nc,d\n"


def test_disconnected_items_are_an_error(write, tmp_path, capsys):
  out = tmp_path / "b.json"
  assert main(["bt", write(ISLANDS), "--winner=w", "--loser=l", f"--out={out}"]) == 2
  printed = capsys.readouterr()
  assert printed.out == ""
  assert printed.err.count("\n") == 1
  assert "2 groups of items never met: {a, b}, {c, d}" in printed.err
  assert "--on-disconnected=largest" in printed.err and "--prior=pseudo:1" in printed.err
  assert [path.name for path in tmp_path.iterdir()] == ["g.csv"]


@pytest.mark.parametrize("bootstrap", [[], ["--bootstrap=30"]])
def test_the_largest_component(bootstrap, write, tmp_path, capsys):
  out = tmp_path / "b.json"
  arguments = ["--winner=w", "--loser=l", "--on-disconnected=largest", f"--out={out}", *bootstrap]
  assert main(["bt", write(ISLANDS + 2 * ISLANDS.removeprefix("w,l\n")), *arguments]) == 0
  board = json.loads(out.read_text())
  assert [(item["item"], item["rank"], item["component"]) for item in board["items"][:2]] == [("a", 1, 0), ("b", 2, 0)]
  assert [(item["item"], item["rank"], item["rating"]) for item in board["items"][2:]] == [
    ("c", None, None),
    ("d", None, None),
  ]
  assert board["connectivity"]["islands"] == 2
  assert board["connectivity"]["undefeated"] == ["c"]
  assert "not connected: 2 groups of items never met" in capsys.readouterr().out


def test_a_prior_where_they_are_disconnected(write, capsys):
  assert main(["bt", write(ISLANDS), "--winner=w", "--loser=l", "--on-disconnected=prior"]) == 0
  assert "prior: pseudo:1" in capsys.readouterr().out


def test_a_fit_that_does_not_converge_says_so(games, capsys, monkeypatch):
  import dpojax.bradley_terry as package

  fit = package.fit
  monkeypatch.setattr(package, "fit", lambda data, **options: fit(data, max_iter=1, **options))
  assert main(["bt", games, *COLUMNS, "--ties=half"]) == 1
  printed = capsys.readouterr()
  assert "NOT CONVERGED" in printed.out
  assert "dpojax: warning: the fit did not converge in 1 steps" in printed.err


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["--a=home", "--b=away"], "--outcome is missing; name the columns --a, --b and --outcome, or --winner and"),
    (["--winner=home"], "--winner and --loser come together"),
    (["--winner=home", "--loser=away", "--home"], "--home has no meaning with --winner and --loser"),
    ([*COLUMNS, "--tie=result"], "--tie has no meaning with --outcome"),
    ([*COLUMNS, "--neutral=neutral"], "--neutral has no meaning without --home"),
    ([*COLUMNS, "--hoem"], "unknown option '--hoem'; did you mean '--home'?"),
    ([*COLUMNS, "--bootstap=5"], "unknown option '--bootstap'; did you mean '--bootstrap'?"),
    ([*COLUMNS, "--ties=davidsen"], "argument --ties: invalid choice: 'davidsen'"),
    ([*COLUMNS, "--prior=normal"], "--prior=normal: wanted normal:SD or pseudo:N"),
    ([*COLUMNS, "--prior=flat:1"], "--prior=flat:1: wanted normal:SD or pseudo:N"),
    ([*COLUMNS, "--prior=pseudo:-1"], "--prior=pseudo:-1: wanted normal:SD or pseudo:N"),
    ([*COLUMNS, "x=c"], "--map x=c: wanted LABEL=a, LABEL=b, LABEL=tie, LABEL=both_bad or LABEL=drop"),
    ([*COLUMNS, "H=b"], "--map: 'H' is there twice"),
    ([*COLUMNS, "--level=1"], "argument --level: 1 must be from"),
    ([*COLUMNS, "--seed=1"], "--seed has no meaning without --bootstrap"),
    ([*COLUMNS, "--bootstrap=9", "--covariance=hessian"], "--covariance has no meaning with --bootstrap"),
    ([*COLUMNS, "--out=board.txt"], "--out=board.txt: its name must end in .json, .csv"),
    ([*COLUMNS, "--plot=board.gif"], "--plot=board.gif: its name must end in .png, .svg, .pdf"),
    ([*COLUMNS, "--out=/nowhere/board.json"], "--out=/nowhere/board.json: No such file or directory; name a file in"),
    ([*COLUMNS], "comparisons are ties; choose --ties=half"),
    ([*COLUMNS, "--ties=half", "--baseline=Ajaks"], "baseline 'Ajaks' is not among the 5 items"),
    (COLUMNS[:3], "row 1: column 'result' holds 'A', which is unknown; known are 'a', 'model_a'"),
    (COLUMNS[:3], "say what it means, such as --map A=tie, of a, b, tie and drop"),
    (["--a=home", "--b=away", "--outcome=score"], "there is no column 'score'; there are 'home', 'away', 'result'"),
  ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(arguments, message, games, capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert main(["bt", games, *arguments]) == 2
  printed = capsys.readouterr()
  assert printed.out == ""
  assert printed.err.startswith("dpojax: error: ") and printed.err.count("\n") == 1
  assert message in printed.err
  assert list(tmp_path.iterdir()) == []


def test_a_written_file_stays_where_a_later_run_fails(games, tmp_path, capsys):
  out = tmp_path / "board.json"
  assert main(["bt", games, *COLUMNS, "--ties=half", f"--out={out}"]) == 0
  before = out.read_bytes()
  assert main(["bt", games, *COLUMNS, f"--out={out}"]) == 2
  assert out.read_bytes() == before
  assert [path.name for path in tmp_path.iterdir()] == ["board.json"]
