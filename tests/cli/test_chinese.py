"""50 Chinese pairs through `data inspect`, training, sampling, plots and the page: tables straight, nothing too wide, no boxes."""

import itertools
import json
import pathlib
import re
import shutil
import unicodedata
import warnings

import pytest
from chinese_model import PAIRS, chinese_tokenizer, write_chinese_model
from matplotlib.figure import Figure

from dpojax import plot_text
from dpojax.bradley_terry import Comparisons, fit, leaderboard
from dpojax.cli.main import main
from dpojax.report.figures import save_figure
from dpojax.screen import Table

ROWS = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
NAMES = ["小熊猫", "通义千问", "plain", "混元（旧版）"]


def columns(line):
  """On a terminal, by Unicode's tables; emoji that are joined count once."""
  line = re.sub("\u200d.|[\ufe0f\U0001f3fb-\U0001f3ff]", "", line)
  return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in line)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("中文")
  write_chinese_model(folder / "模型")
  return folder


def test_the_fixture_is_fifty_chinese_pairs_that_the_tokenizer_keeps():
  assert len(ROWS) == 50 and all(set(row) == {"prompt", "chosen", "rejected"} for row in ROWS)
  tokenizer = chinese_tokenizer()
  for row in ROWS:
    for text in row.values():
      assert tokenizer.decode(tokenizer.encode(text)) == text
  letters = [c for row in ROWS for c in row["prompt"] + row["chosen"] if unicodedata.category(c) == "Lo"]
  assert len(letters) / sum(len(row["prompt"] + row["chosen"]) for row in ROWS) > 0.75


def test_inspect_shows_every_text_whole(folder, capsys):
  code = main(["data", "inspect", f"--data={PAIRS}", f"--model={folder / '模型'}", "--rows=99", "--batch.size=50"])
  out, err = capsys.readouterr()
  assert (code, err) == (0, "")
  assert re.search(r"^kept +50  100.0%$", out, re.M) and "\ufffd" not in out
  shown = [row for row in ROWS if f"⟦{row['chosen']}<end>⟧" in out]
  assert len(shown) >= 40  # the others are held out
  assert all(row["prompt"] in out and f"⟦{row['rejected']}<end>⟧" in out for row in shown)
  counts = out.partition(str(PAIRS))[2].partition("row 0 of step 0")[0]
  assert max(map(columns, counts.split("\n")[1:])) <= 80


def test_tables_are_straight():
  rows = [[name, "1"] for name in (*NAMES, "家 👩‍👩‍👧 庭", "e\u0301té")]
  for line in Table(["名字", "数"], rows).text().split("\n"):
    assert columns(line) == columns("混元（旧版）") + 2 + columns("数")
  assert max(map(columns, Table(["", "值"], [["很长的名字，" * 9, "1.0"]]).text(40).split("\n"))) <= 40


def test_a_leaderboard_is_straight_and_fits():
  long = "一个非常非常非常非常非常非常非常非常长的名字"
  names = [*NAMES, long, long[1:]]
  board = leaderboard(fit(Comparisons.from_pairs(*zip(*itertools.permutations(names, 2), strict=True))))
  whole, narrow = str(board).split("\n"), board.text(80).split("\n")
  assert long in str(board) and long not in board.text(80)
  for lines in (whole, narrow):
    assert len({columns(line) for line in lines[: len(names) + 1]}) == 1
  assert columns(narrow[0]) <= 80 < columns(whole[0])


def test_plots_draw_chinese_or_say_that_they_cannot(tmp_path, capsys, monkeypatch):
  """With whatever fonts are here, and with none but matplotlib's own."""

  def draw():
    figure = Figure()
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], label="奖励 $x$")
    axes.set_yticks([0, 1], ["客服", "法律$y_$"])
    axes.set_title("标题 \x1b[2J", fontweight="bold")
    legend = axes.legend()
    with warnings.catch_warnings():
      warnings.simplefilter("error")  # matplotlib warns of each character that its fonts lack
      save_figure(figure, tmp_path / "plot.png")
    labels = [label.get_text() for label in axes.get_yticklabels()]
    return [axes.get_title(), *labels, legend.get_texts()[0].get_text()]

  texts = draw()
  assert texts[0].endswith(" \\x1b[2J") and texts[2].endswith("$y_$") and texts[3].endswith(" $x$")
  assert bool(capsys.readouterr().err) == any("\\u" in text for text in texts)
  monkeypatch.setattr(plot_text, "_installed", lambda: [])
  monkeypatch.setattr(plot_text, "_said", set())
  plot_text._families.cache_clear()
  assert draw() == ["\\u6807\\u9898 \\x1b[2J", "\\u5ba2\\u670d", "\\u6cd5\\u5f8b$y_$", "\\u5956\\u52b1 $x$"]
  said = capsys.readouterr().err.splitlines()
  assert len(said) == 2 and "no installed font has 客律服法: written out, as \\u5ba2" in said[0]
  plot_text._families.cache_clear()


def test_fonts_that_have_a_box_for_everything_are_no_fonts():
  assert not any("resort" in name.lower() for name, _ in plot_text._installed())


CONFIG = """
from dpojax.config import base

def get_config():
  config = base()
  config.model.path = {model!r}
  config.data.path = {data!r}
  config.data.eval_fraction = 0.2
  config.batch.size, config.batch.rows, config.batch.row_length = 8, 4, 256
  config.train.steps = 2
  config.evaluation.every = config.monitor.every = 1
  config.monitor.prompts, config.monitor.max_tokens = 4, 16
  config.monitor.rewards = "length, regex:[您好]"
  return config
"""


@pytest.fixture(scope="module")
def run(folder):
  (folder / "配置.py").write_text(CONFIG.format(model=str(folder / "模型"), data=str(PAIRS)), encoding="utf-8")
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("COLUMNS", "80")
    assert main(["train", f"--config={folder / '配置.py'}", f"--workdir={folder / '运行'}"]) == 0
  return folder / "运行"


@pytest.mark.long
def test_a_run_its_report_and_its_samples(run, capsys, monkeypatch):
  monkeypatch.setenv("COLUMNS", "80")
  assert main(["train", f"--config={run.parent / '配置.py'}", f"--workdir={run}"]) == 0
  table, _, ways = capsys.readouterr().out.partition("\nreport: ")
  assert max(map(columns, table.split("\n"))) <= 80 and str(run) in ways
  prompts = [line for line in table.split("\n") if line.startswith("> ")]
  assert len(prompts) == 4 and all(line[2:] in {row["prompt"] for row in ROWS} for line in prompts)
  bars = [columns(line.partition("|")[0]) for line in table.split("\n") if " | " in line or line.endswith(" |")]
  assert len(set(bars)) == 1 and len(bars) >= 12
  report = (run / "report.md").read_text(encoding="utf-8")
  assert all(f"Prompt: {line[2:]}" in report for line in prompts)
  assert main(["sample", f"--model={run}", f"--prompt={ROWS[0]['prompt']}", "--samples=2", "--max-tokens=8"]) == 0
  assert f"> {ROWS[0]['prompt']}\n[1] " in capsys.readouterr().out


@pytest.mark.long
def test_the_page_holds_and_shows_them(run, tmp_path):
  pytest.importorskip("altair", reason="needs pip install 'dpojax[report]'")
  assert main(["report", str(run), f"--out={tmp_path}"]) == 0
  page = (tmp_path / "index.html").read_text(encoding="utf-8")
  assert "<h1>运行</h1>" in page and sum(row["prompt"] in page for row in ROWS) == 4
  playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
  chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
  if chromium is None:
    pytest.skip("needs Chromium: apt-get install chromium")
  with playwright.sync_playwright() as driver:
    browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    for width in (390, 1200):
      opened = browser.new_page(viewport={"width": width, "height": 900})
      opened.goto(pathlib.Path(tmp_path, "index.html").as_uri())
      opened.wait_for_selector("html[data-drawn]", timeout=60_000)
      assert opened.inner_text("h1") == "运行"
      assert opened.evaluate("document.documentElement.scrollWidth") <= width
      assert any(row["prompt"] in opened.inner_text("main") for row in ROWS)
    browser.close()
