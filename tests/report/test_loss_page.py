"""The page of losses: as committed, complete, and with curves that say what the losses do."""

import pathlib
import re

import numpy as np
import pytest

from dpojax.losses import LOSSES, loss_options
from dpojax.report.loss_curves import GLANCE, curves, draw_glance, draw_loss
from dpojax.report.loss_page import loss_page

DOCS = pathlib.Path(__file__).parents[2] / "docs"


def test_the_committed_page_is_what_the_docstrings_make():
  made = "run python docs/make_losses.py and commit what it writes"
  assert (DOCS / "losses.md").read_text(encoding="utf-8") == loss_page(), made


def test_every_loss_has_its_section_options_source_and_plot():
  page = loss_page()
  for name in LOSSES:
    section = page.split(f"\n### {name}\n")[1].split("\n### ")[0]
    assert "```\n" in section and "\nValue: " in section and "\nSource: " in section
    for option in loss_options(name):
      assert f"| `{option}` | " in section
  links = re.findall(r"\]\((images/[^)]+)\)", page)
  assert len(links) == len(LOSSES) + 1
  assert all((DOCS / link).stat().st_size > 1000 for link in links)
  for anchor in re.findall(r"\]\(#(\w+)\)", page):
    assert f"\n### {anchor}\n" in page


def test_no_markup_is_left_over():
  page = loss_page()
  assert "::" not in page and "Args:" not in page and "Returns:" not in page and "f32[B], unreduced" not in page


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dpo", "hinge", "ipo_sum", "cdpo", "kto", "orpo"])
def test_the_gradient_weight_is_minus_the_slope_of_the_curve(name):
  for line in curves(name, points=481):
    slope = np.gradient(line.loss, line.x)
    smooth = slice(2, -2)
    error = abs(slope + line.weight)[smooth]
    assert np.quantile(error, 0.98) < 0.02 * max(1.0, abs(line.weight).max())


@pytest.mark.slow
def test_curves_show_the_losses_apart_that_the_page_tells_apart():
  dpo, cdpo, robust, hinge, ipo = (curves(name)[0] for name in GLANCE)
  x = dpo.x
  at = lambda line, margin: line.weight[np.argmin(abs(x - margin))]  # noqa: E731
  np.testing.assert_allclose([at(dpo, 0), at(hinge, 0), at(ipo, 0.5)], [0.5, 1.0, 0.0], atol=1e-6)
  assert at(dpo, 6) > 0 > at(cdpo, 6) and at(hinge, 6) == 0 and at(ipo, 6) < -10
  np.testing.assert_allclose(at(robust, 6), 0.1 / 0.8, rtol=0.03)
  assert robust.loss[-1] < 0


@pytest.mark.slow
def test_losses_of_the_margin_have_one_line_and_others_as_many_as_differ():
  count = {name: len(curves(name, points=13)) for name in LOSSES}
  assert count["dpo"] == count["hinge"] == count["simpo"] == 1
  assert count["bco_pair"] == count["apo_zero"] == count["xpo"] == 2 and count["dpop"] == count["apo_down"] == 3
  assert all(np.isfinite([line.loss, line.weight]).all() for name in LOSSES for line in curves(name, points=13))


@pytest.mark.slow
def test_plots_are_drawn():
  for figure in (draw_glance(), draw_loss("kto")):
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["loss", "gradient weight"]
    assert all(axis.get_lines() for axis in figure.axes)
