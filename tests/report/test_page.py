"""The page and its files: nothing fetched, nothing that runs, small, complete, and honest about what is missing."""

import csv
import html.parser
import importlib
import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("altair", reason="needs pip install 'dpojax[report]'")
pytest.importorskip("vl_convert", reason="needs pip install 'dpojax[report]'")

from made_stages import look, make_experiment, make_stage, train_rows
from page_runs import CHINESE, ENDS, SCRIPT, make_hostile, make_sixty

from dpojax.cli.main import main
from dpojax.report.page.curves import MOST_POINTS, thinned
from dpojax.report.page.files import as_file
from dpojax.report.page.html import embedded, escape

pytestmark = pytest.mark.slow


class Reader(html.parser.HTMLParser):
  """Elements of a page with their attributes, and the text of each table's cells by its id."""

  def __init__(self, text):
    super().__init__()
    self.elements, self.tables, self._table, self._row, self._cell = [], {}, None, None, None
    self.scripts, self._script = [], None
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    found = dict(attrs)
    self.elements.append((tag, found))
    if tag == "table":
      self._table = self.tables.setdefault(found["id"], [])
    elif tag == "tr":
      self._row = []
    elif tag in ("td", "th"):
      self._cell = ""
    elif tag == "script":
      self._script = ""

  def handle_data(self, data):
    if self._script is not None:
      self._script += data
    elif self._cell is not None:
      self._cell += data

  def handle_endtag(self, tag):
    if tag in ("td", "th"):
      self._row.append(self._cell)
      self._cell = None
    elif tag == "tr":
      self._table.append(self._row)
    elif tag == "script":
      self.scripts.append(self._script)
      self._script = None

  def rows(self, table):
    """[{heading: cell}] of a table."""
    head, *rows = self.tables[f"table-{table}"]
    return [dict(zip(head, row, strict=True)) for row in rows]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
  folder = make_hostile(tmp_path_factory.mktemp("hostile") / "runs")
  out = folder.parent / "page"
  assert main(["report", str(folder), f"--out={out}", f"--title={SCRIPT}"]) == 0
  text = (out / "index.html").read_text(encoding="utf-8")
  return out, text, Reader(text)


def test_nothing_is_fetched(hostile):
  _, text, page = hostile
  for tag, attributes in page.elements:
    assert tag not in ("link", "iframe", "object", "embed", "base", "img", "audio", "video", "source"), tag
    for name in ("src", "href", "action", "srcset", "data"):
      assert (attributes.get(name) or "#").startswith("#"), (tag, name)
  data = json.loads(next(s for s in page.scripts if s.startswith('{"charts"')))
  assert "url" not in json.dumps(data).replace("$schema", "").lower().replace("vega.github.io", "")
  assert "@import" not in text and "url(" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
  (policy,) = [
    a["content"] for t, a in page.elements if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
  ]
  directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
  assert directives["default-src"] == "'none'" and directives["connect-src"] == "'none'"
  assert "unsafe" not in directives["script-src"] and len(directives["script-src"].split()) == 2


def test_what_models_and_folders_say_stays_text(hostile):
  _, text, page = hostile
  assert len(page.scripts) == 3  # data, library, page: an answer that ends a script would make more
  assert not [tag for tag, _ in page.elements if tag == "img"]
  assert SCRIPT not in text and ENDS not in text
  assert any("a<b>&\"'" in row["run"] for row in page.rows("runs"))
  data = json.loads(next(s for s in page.scripts if s.startswith('{"charts"')))
  answers = [answer for one in data["samples"] for prompt in one["prompts"] for answer in prompt["answers"]]
  assert any(answer[1] == ENDS for answer in answers) and any(answer[1] == CHINESE for answer in answers)


@pytest.mark.parametrize("text", [SCRIPT, ENDS, "<!--<script", "\u2028", "&lt;"])
def test_json_in_a_page_cannot_end_its_element(text):
  assert "<" not in embedded({text: [text]})
  assert json.loads(embedded({text: [text]})) == {text: [text]}
  assert "<" not in escape(text) and '"' not in escape(text)


def test_every_section_is_there(hostile):
  _, text, page = hostile
  sections = [attributes["id"] for tag, attributes in page.elements if tag == "section"]
  assert sections == [
    "frontier",
    "methods",
    "bradley_terry",
    "policies",
    "tournament",
    "two_rewards",
    "curves",
    "samples",
    "runs",
    "end",
  ]
  assert "Not on this page" not in text


def test_the_table_of_methods_says_what_each_reaches_and_costs(hostile):
  rows = {row["method"]: row for row in hostile[2].rows("methods")}
  ppo, dpo = rows["PPO, learned reward"], rows["DPO"]
  assert ppo["true reward at KL 2"] == "2.20 (2.10 to 2.30)"
  assert dpo["true reward at KL 4"].startswith("2.60 (")
  assert ppo["true reward at KL 1"] == "-" and dpo["true reward at KL 1"].startswith("1.79 (")
  assert ppo["held-out prompts"] == "12" and any("unseen_pair" in name for name in ppo)
  rows = {row["method"]: row for row in hostile[2].rows("costs")}
  ppo, dpo = rows["PPO, learned reward"], rows["DPO"]
  assert ppo["upstream"] == "sft → pairs → reward → PPO, learned reward"
  assert ppo["models in memory"] == "4: policy, reference, reward model, critic"
  assert dpo["models in memory"] == "2: policy, reference" and dpo["tokens sampled"] == "144"
  assert (dpo["labels"], dpo["answers judged"], ppo["labels"], ppo["answers judged"]) == ("712", "0", "712", "0")
  rows = {row["method"]: row for row in hostile[2].rows("differences")}
  assert rows["PPO, learned reward"]["at KL 2"].startswith("-0.") and "DPO" not in rows


def test_reward_models_stand_beside_implicit_rewards(hostile):
  rows = {row["run"]: row for row in hostile[2].rows("bradley_terry")}
  assert set(rows) == {"reward", "dpo_0.1", "dpo_0.5", "dpo_2"}
  assert (
    rows["reward"]["reward accuracy"] == "70.0 ± 5.4 %" and rows["dpo_2"]["reward accuracy, lengths alike"] == "65.0 %"
  )
  assert (
    rows["reward"]["tokens trained on"] == "4,000" and "policy and reference" in rows["dpo_2"]["what it needs to score"]
  )


def test_the_tournament_has_ranks_with_intervals(hostile):
  first = hostile[2].rows("tournament_1")[0]
  assert (first["policy"], first["strength"], first["rank, 95 % interval"]) == ("sft", "1.00 (0.80 to 1.20)", "1 to 2")


def test_charts_and_tables_are_files_too(hostile):
  out, _, page = hostile
  listed = json.loads((out / "files.json").read_text())
  assert all((out / path).stat().st_size > 0 for path in listed)
  charts = {path.stem for path in (out / "charts").glob("*.png")}
  assert {"frontier", "two_rewards", "curve_loss", "curve_kl"} <= charts
  for name in charts:
    assert (out / "charts" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "charts" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    svg = (out / "charts" / f"{name}.svg").read_text(encoding="utf-8")
    assert svg.startswith("<svg") and "<script" not in svg and "http" not in svg.replace("http://www.w3.org/", "")
  with open(out / "tables" / "methods.csv", encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
  assert [row["method"] for row in rows] == [row["method"] for row in page.rows("methods")]
  cell = page.rows("methods")[0]["true reward at KL 4"]
  read = [float(rows[0][f"true reward at KL 4{part}"]) for part in ("", " low", " high")]
  assert cell == "{:.2f} ({:.2f} to {:.2f})".format(*read)
  with open(out / "tables" / "costs.csv", encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
  assert (rows[0]["tokens trained on"], rows[0]["time"]) == ("8000", "40")
  assert rows[0]["models in memory"] == "2: policy, reference"
  with open(out / "charts" / "frontier.csv", encoding="utf-8") as file:
    series = {row["series"] for row in csv.DictReader(file)}
  assert {"DPO", "PPO, learned reward", "best of N", "reference", "oracle"} <= series


def test_the_frontier_fits_a_column(hostile):
  content = (hostile[0] / "charts" / "frontier_column.pdf").read_bytes()
  (box,) = re.findall(rb"/MediaBox ?\[ ?([\d. ]+)\]", content)
  left, _, right, _ = map(float, box.split())
  assert (right - left) / 72 == pytest.approx(3.25, abs=0.01)


def test_files_say_what_their_marks_are(hostile):
  charts = hostile[0] / "charts"
  drawn = {name: (charts / f"{name}.svg").read_text() for name in ("frontier", "two_rewards_over_kl")}
  assert all(
    f">{text}<" in drawn["frontier"] for text in ("oracle, 95 % band", "looks on the way", "β 0.1", "target 4", "N 8")
  )
  assert ">true reward<" in drawn["two_rewards_over_kl"] and ">reward learned<" in drawn["two_rewards_over_kl"]
  for text in drawn.values():
    legend = text[text.index("role-legend") :]
    assert re.search(r'stroke-dasharray="3,2"', legend)  # a dash, not a disc
    assert text.count('role-legend"') == 1  # another would stand beside it, beyond the edge


@pytest.mark.long
def test_sixty_runs_stay_small(tmp_path):
  folder = make_sixty(tmp_path / "runs")
  assert main(["report", str(folder), f"--out={tmp_path / 'page'}"]) == 0
  index = tmp_path / "page" / "index.html"
  assert index.stat().st_size < 5e6
  text = index.read_text(encoding="utf-8")
  assert len(Reader(text).rows("runs")) == 12 * 8
  assert "Thinned out: a point is the mean of up to" in text


def test_thinning_keeps_means():
  curve = [(step, float(step % 7)) for step in range(1, 1001)]
  few = thinned(curve, MOST_POINTS)
  assert len(few) == MOST_POINTS
  assert sum(value for _, value in few) / MOST_POINTS == pytest.approx(sum(v for _, v in curve) / 1000, abs=0.02)
  assert few[0][0] >= 1 and few[-1][0] <= 1000 and thinned(curve, 1000) == curve
  assert thinned([(1, float("nan")), (2, 4.0)], 1) == [(2.0, 4.0)]


def test_sections_without_data_are_named_with_what_would_give_them(tmp_path, capsys):
  make_stage(tmp_path / "sft", "sft", metrics=train_rows(4))
  assert main(["report", str(tmp_path)]) == 0
  text = (tmp_path / "report" / "index.html").read_text()
  ids = [attributes["id"] for tag, attributes in Reader(text).elements if tag == "section"]
  assert ids == ["curves", "runs", "end"]
  assert "<li>Frontier: set monitor.every" in text and "<li>Tournament: a stage of recipe=comparison" in text
  assert capsys.readouterr().out.startswith("1 run: Training curves, All runs\n")


def test_a_page_made_anew_forgets_old_files(tmp_path):
  runs = tmp_path / "runs"
  make_stage(runs / "d", "preference", metrics=[look(0, 0, 0.5), *train_rows(4), look(4, 1.0, 1.0)])
  main(["report", str(runs), f"--out={tmp_path / 'page'}"])
  (tmp_path / "page" / "charts" / "mine.png").write_text("kept")
  assert (tmp_path / "page" / "charts" / "frontier.png").exists()
  (runs / "d" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in train_rows(4)))
  main(["report", str(runs), f"--out={tmp_path / 'page'}"])
  assert not (tmp_path / "page" / "charts" / "frontier.png").exists()
  assert (tmp_path / "page" / "charts" / "mine.png").exists() and (
    tmp_path / "page" / "charts" / "curve_loss.png"
  ).exists()


def test_another_reward_may_judge(tmp_path, capsys):
  make_experiment(tmp_path / "runs")
  assert main(["report", str(tmp_path / "runs"), "--reward=learned", f"--out={tmp_path / 'page'}"]) == 0
  assert "Reward learned against KL" in (tmp_path / "page" / "index.html").read_text()
  assert main(["report", str(tmp_path / "runs"), "--reward=lerned"]) == 2
  assert "--reward=lerned: no run measured it; measured are true, learned" in capsys.readouterr().err


@pytest.mark.parametrize(
  "words, said",
  [
    (["report", "{}/empty"], "no run is here"),
    (["report", "{}/nowhere"], "no such folder"),
    (["report", "{}/sft", "--out={}/sft"], "is the folder of a run"),
    (["report", "{}/sft", "--ot=x"], "unknown option '--ot'"),
  ],
)
def test_what_cannot_be_is_said_in_one_line(tmp_path, capsys, words, said):
  (tmp_path / "empty").mkdir()
  make_stage(tmp_path / "sft", "sft", metrics=train_rows(4))
  assert main([word.format(tmp_path) for word in words]) == 2
  error = capsys.readouterr().err
  assert said in error and error.count("\n") == 1


def test_a_missing_library_is_named_with_how_to_get_it(tmp_path, monkeypatch, capsys):
  make_stage(tmp_path / "sft", "sft")
  found = importlib.util.find_spec
  monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "altair" else found(name, *more))
  assert main(["report", str(tmp_path)]) == 2
  assert capsys.readouterr().err == "dpojax: error: dpojax report needs altair: pip install 'dpojax[report]'\n"


def test_a_damaged_run_is_left_out_and_said(tmp_path, capsys):
  make_stage(tmp_path / "runs" / "good", "sft", metrics=train_rows(4))
  bad = make_stage(tmp_path / "runs" / "bad", "sft")
  (bad / "stage.json").write_text("{")
  worse = make_stage(tmp_path / "runs" / "worse", "sft")
  (worse / "metrics.jsonl").write_text('{"step": 1, "split": "train"}\n{"step": \n')
  assert main(["report", str(tmp_path / "runs"), f"--out={tmp_path / 'page'}"]) == 0
  said = capsys.readouterr()
  assert f"left out: {bad / 'stage.json'}" in said.err and f"left out: {worse / 'metrics.jsonl'}" in said.err
  assert said.out.startswith("1 run: ")
  assert str(bad / "stage.json") in (tmp_path / "page" / "index.html").read_text()


def test_only_the_command_imports_the_libraries():
  code = "import sys, dpojax, dpojax.report; print([m for m in ('altair', 'vl_convert', 'pandas') if m in sys.modules])"
  root = str(pathlib.Path(__file__).parents[2])
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
  assert out.stdout.strip() == "[]"


def test_chinese_is_drawn_and_no_boxes():
  import vl_convert

  fonts = shutil.which("fc-list") and subprocess.run(["fc-list", ":lang=zh"], capture_output=True, text=True).stdout
  if not fonts:
    pytest.skip("needs a font with Chinese: apt-get install fonts-wqy-microhei")

  def drawn(text):
    spec = {
      "data": {"values": [{"text": text}]},
      "mark": {"type": "text", "fontSize": 40},
      "encoding": {"text": {"field": "text"}},
    }
    return vl_convert.vegalite_to_png(as_file(spec, 100))

  assert drawn("优") != drawn("化")  # boxes are all alike
  assert drawn("\ue001") == drawn("\\ue001")  # which no font has
