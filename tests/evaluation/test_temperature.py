"""The temperature: against a general optimiser, known scales, and the data that have none."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import drawn, from_margins
from scipy.optimize import minimize_scalar

from dpojax.evaluation import compare, evaluate
from dpojax.evaluation.calibration import nll
from dpojax.evaluation.temperature import NO_FIT, cross_fit, fit_temperature

margins = st.lists(st.tuples(st.integers(-5000, 5000).map(lambda n: n / 1000), st.booleans()), min_size=2, max_size=40)


def made(drawn_margins):
  return compare(from_margins([m for m, _ in drawn_margins], tied=[t for _, t in drawn_margins]))


@given(margins)
def test_no_other_temperature_is_likelier(drawn_margins):
  comparisons = made(drawn_margins)
  fit = fit_temperature(comparisons)
  if fit.status != "fitted":
    return
  d, tied = comparisons.margin, comparisons.tied

  def loss(a):
    return np.sum(np.logaddexp(0, -a * d) + np.where(tied, np.logaddexp(0, a * d) - np.logaddexp(0, -a * d), 0) / 2)

  best = minimize_scalar(loss, bracket=(0, 1 / fit.value), tol=1e-12)
  assert loss(1 / fit.value) <= best.fun + 1e-9 * max(1, abs(best.fun))
  assert fit.low < fit.value < fit.high


@given(margins, st.sampled_from([1e-6, 0.25, 3.0, 1e5]))
def test_the_unit_of_the_scores_is_the_unit_of_the_temperature(drawn_margins, unit):
  fit = fit_temperature(made(drawn_margins))
  other = fit_temperature(made([(unit * m, t) for m, t in drawn_margins]))
  assert other.status == fit.status
  if fit.status == "fitted":
    assert other.value == pytest.approx(unit * fit.value, rel=1e-6)
    assert other.standard_error == pytest.approx(unit * fit.standard_error, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.2, 1.0, 3.0, 40.0])
def test_a_known_scale_is_found_within_its_error(scale):
  fit = fit_temperature(compare(drawn(20_000, scale=scale)))
  assert fit.value == pytest.approx(scale, rel=0.05)
  assert abs(fit.value - scale) < 3 * fit.standard_error


@pytest.mark.slow
def test_the_standard_error_is_the_spread_over_data_sets():
  fits = [fit_temperature(compare(drawn(400, seed=seed))) for seed in range(300)]
  spread = np.std([1 / fit.value for fit in fits])
  assert np.mean([fit.standard_error / fit.value**2 for fit in fits]) == pytest.approx(spread, rel=0.1)
  covered = np.mean([fit.low < 1 < fit.high for fit in fits])
  assert 0.9 < covered < 0.99


def test_two_margins_have_a_closed_form():
  """Three wins and one loss at the same |d|: sigmoid(d/T) = 3/4, so T = d / ln 3."""
  fit = fit_temperature(compare(from_margins([2.0, 2.0, 2.0, -2.0])))
  assert fit.value == pytest.approx(2 / math.log(3), rel=1e-12)
  # var(logit of a share p of n) = 1/(n p (1-p)), with the factor n/(n-1) of a sample.
  error = math.sqrt(4 / 3 / (4 * 3 / 16)) / 2  # of 1/T
  assert fit.standard_error == pytest.approx(error * fit.value**2, rel=1e-12)


@pytest.mark.parametrize(
  "rows, status",
  [
    (from_margins([1.0, 2.0, 0.0]), "separable"),
    (from_margins([0.0, 0.0]), "flat"),
    (from_margins([-1.0, 0.5]), "inverted"),
    (from_margins([-1.0, 1.0]), "inverted"),
    (from_margins([1.0, 2.0], tied=[True, True]), "inverted"),  # ties alone: T is infinite
    (from_margins([1.0, 2.0], tied=[True, False]), "fitted"),  # a tie of unequal scores holds T above 0
    ([], "empty"),
  ],
)
def test_what_has_no_temperature_says_why(rows, status):
  fit = fit_temperature(compare(rows))
  assert fit.status == status
  assert math.isnan(fit.value) == (status != "fitted")
  if rows and status != "fitted":
    found = evaluate(rows)
    assert found["temperature"] == {"status": status, "why": NO_FIT[status]}
    assert "on one half of the prompts" in found["calibrated"]["why"]


def test_a_hair_from_separable_is_fitted():
  """T is tiny but found: d = 1 won, 1e-9 lost; the slope e^(-1/T) - 1e-9/2 is 0 at T = 1 / ln(2e9)."""
  fit = fit_temperature(compare(from_margins([1.0, -1e-9])))
  assert fit.value == pytest.approx(1 / math.log(2e9), rel=1e-6)
  assert math.isfinite(fit.standard_error)


def test_after_is_honest():
  """Each half is judged by the other half's temperature, whichever way rows are ordered."""
  rows = drawn(600, scale=4.0)
  fits = cross_fit(compare(rows))
  even, odd = ([row for row in rows if row.prompt % 2 == half] for half in (0, 1))
  assert fits.folds == (fit_temperature(compare(even)), fit_temperature(compare(odd)))
  judged = np.concatenate(
    [[row.scores[0] / fits.folds[1].value for row in even], [row.scores[0] / fits.folds[0].value for row in odd]]
  )
  assert sorted(fits.calibrated.margin) == pytest.approx(sorted(judged))
  before, after = nll(compare(rows)).value, nll(fits.calibrated).value
  assert fits.nll_change.value == pytest.approx(after - before)
  assert fits.nll_change.high < 0
  own = fit_temperature(compare(rows)).value
  assert after > nll(compare(from_margins([row.scores[0] / own for row in rows]))).value


def test_one_prompt_stays_in_one_half():
  rows = from_margins(np.random.default_rng(0).normal(0.5, 1, 200), prompts=np.arange(200) // 10)
  comparisons = compare(rows)
  fits = cross_fit(comparisons)
  ratio = comparisons.margin / fits.calibrated.margin
  for prompt in range(20):
    assert np.ptp(ratio[comparisons.prompt == prompt]) == pytest.approx(0, abs=1e-12)
  assert len({round(r, 9) for r in ratio}) == 2


def test_calibration_mends_what_was_distorted():
  found = evaluate(drawn(5000, scale=3.0))
  before, after = found["calibration"], found["calibrated"]
  assert before["ece"] > 4 * before["ece_by_chance"]
  assert after["ece"] < 2 * after["ece_by_chance"]
  assert after["nll"]["value"] == pytest.approx(evaluate(drawn(5000))["calibration"]["nll"]["value"], abs=1e-3)
  assert found["temperature"]["interval"][0] < 3 < found["temperature"]["interval"][1]
