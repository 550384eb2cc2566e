"""What the site makes from the code: settings, metrics, the house, the API reference, words that become links."""

import importlib
import pathlib
import re
import sys

import pytest

from dpojax.config.keys import fields_by_key
from dpojax.metrics import METRICS, metric_named

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
  """docs/NAME.py as a module."""
  sys.path.insert(0, str(ROOT / "docs"))
  yield importlib.import_module
  sys.path.remove(str(ROOT / "docs"))


@pytest.mark.slow
def test_every_setting_has_one_row_with_its_default_and_meaning(script):
  page = script("make_site").settings_page()
  rows = dict(re.findall(r"^\| \[`([\w.]+)`\].*?\| (.*) \|$", page, re.MULTILINE))
  assert list(rows) == list(fields_by_key())
  assert rows["loss.beta"].startswith("left open | strength of the pull to the reference (> 0)")
  assert rows["reference.kind"].endswith("(one of `live`, `cache`, `moving`)")
  assert rows["model.ffn"].endswith("(≥ 8 and ≤ 1,000,000)") and rows["data.eval_fraction"].endswith("(≥ 0 and &lt; 1)")
  assert rows["checkpoint.keep"] == "`2` | newest checkpoints kept (≥ 1) *execution*"


@pytest.mark.slow
def test_every_metric_has_one_row(script):
  page = script("make_site").metrics_page()
  assert sorted(re.findall(r"^\| \[`([\w/]+)`\]", page, re.MULTILINE)) == sorted(METRICS)


@pytest.mark.slow
def test_anchors_are_told_apart(script):
  anchor = script("make_site").anchor
  names = [anchor("setting", key) for key in fields_by_key()] + [anchor("metric", name) for name in METRICS]
  assert len(set(names)) == len(names)


def test_the_house_is_drawn_from_the_imports(script):
  house = script("make_house")
  level = {name: i for i, names in enumerate(house.LAYERS) for name in names}
  assert level["dpojax.losses"] == 0 < level["dpojax.models"] < level["dpojax.training"] < level["dpojax.recipes"]
  assert level["dpojax.cli"] == max(level.values())
  for name, seen in house.GRAPH.items():
    if name != "dpojax.config":
      assert all(level[other] < level[name] for other in seen), name
  svg = house.house_svg()
  assert all(f">{name.removeprefix('dpojax.')}</text>" in svg for name in level)
  assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.slow
def test_arrows_that_are_left_out_stand_for_a_longer_way(script):
  house = script("make_house")
  kept = house.reduced(house.GRAPH)

  def reach(name):
    return {further for other in kept[name] for further in (other, *reach(other))}

  for name, seen in house.GRAPH.items():
    if name != "dpojax.config":
      assert seen <= reach(name), name


def test_the_reference_has_every_module(script):
  pages = script("make_site").api_pages()
  listed = {name for text in pages.values() for name in re.findall(r"automodule:: (\S+)", text)}
  files = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "dpojax").rglob("*.py")]
  modules = {".".join(file.parts).removesuffix(".__init__") for file in files}
  assert listed == {name for name in modules if name != "dpojax.__main__"}
  assert ":py:obj:`Trainer <dpojax.training.trainer.Trainer>`" in pages["dpojax"]


@pytest.mark.parametrize(
  "line, made",
  [
    ("Of `x` and `y`s, a*b|c", "Of ``x`` and ``y``\\ s, a\\*b\\|c"),
    ("    ``kept`` as it is_ here", "    ``kept`` as it is\\_ here"),
    (">>> `kept` * too", ">>> `kept` * too"),
  ],
)
def test_docstrings_become_restructured_text(script, line, made):
  pytest.importorskip("docutils")
  assert script("linked_words").inline(line) == made


def test_metrics_are_found_by_their_pattern():
  assert metric_named("reward/model:runs/reward") is METRICS["reward/NAME"]
  assert metric_named("kl/token_error") is METRICS["kl/token"]
  assert metric_named("loss/dpo") is METRICS["loss/NAME"]
  assert metric_named("kl/tokens") is None and metric_named("rewards/") is None


def test_links_that_lead_nowhere_and_files_from_elsewhere_are_found(script, tmp_path):
  (tmp_path / "sub").mkdir()
  (tmp_path / "a.html").write_text(
    '<h1 id="top">A</h1><a href="sub/b.html#here">1</a><a href="#top">2</a><a href="https://example.org">3</a>'
    '<a href="sub/b.html#gone">4</a><a href="c.html">5</a><script src="https://example.org/x.js"></script>'
  )
  (tmp_path / "sub/b.html").write_text('<p id="here">B</p><a href="../a.html#top">back</a><img src="none.png">')
  assert script("check_links").faults(tmp_path) == [
    "a.html links to c.html, which is no file",
    "a.html loads https://example.org/x.js",
    "a.html links to sub/b.html#gone, where there is no such place",
    "sub/b.html links to none.png, which is no file",
  ]
