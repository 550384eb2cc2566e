"""What the page's charts are drawn with: colours of methods, shades of settings, kinds of losses, ticks, texts, legends."""

import itertools

import pytest

pytest.importorskip("altair", reason="needs pip install 'dpojax[report]'")
pytest.importorskip("vl_convert", reason="needs pip install 'dpojax[report]'")

from made_stages import look, make_experiment, make_ppo, make_stage, train_rows

from dpojax.report.methods import in_order
from dpojax.report.page.content import content_of
from dpojax.report.page.files import as_file
from dpojax.report.page.html import shared_beginning
from dpojax.report.page.point_labels import placed
from dpojax.report.page.shades import lightness_of, on_black, shade, shades
from dpojax.report.page.styles import PALETTE, styles_of
from dpojax.report.page.ticks import ROOM, sqrt_ticks
from dpojax.report.stages import find_stages


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
  """Two seeds of an experiment, with losses of three kinds, and its content."""
  folder = tmp_path_factory.mktemp("seeds") / "runs"
  for seed in (0, 1):
    made = make_experiment(folder / f"seed_{seed}", betas=(0.05, 0.1, 1.0, 5.0), seed=seed, steps=10)
    for name, loss in (("ft", "preferred_ft"), ("ipo", "ipo")):
      metrics = [look(0, 0.0, 0.5), *train_rows(10), look(10, 1.0, 1.0)]
      make_stage(folder / f"seed_{seed}" / name, "preference", {"seed": seed, "loss.name": loss}, metrics=metrics)
    make_ppo(folder / f"seed_{seed}" / "ppo_16", made["sft"], made["reward"], 16.0, seed=seed)
  return content_of(find_stages([folder])[0])


def charts(content):
  return {chart.key: chart for section in content.sections for chart in section.charts}


def scales(part):
  """Every {name: colour} of a specification."""
  if isinstance(part, dict):
    scale = part.get("scale")
    if isinstance(scale, dict) and {"domain", "range"} <= set(scale):
      yield dict(zip(scale["domain"], map(str, scale["range"]), strict=True))
    part = list(part.values())
  for inner in part if isinstance(part, list) else ():
    yield from scales(inner)


def colour_of(chart, name):
  """The colour of a name in a chart's own scale; None where it is not in it."""
  found = {scale[name] for scale in scales(chart.spec) if scale.get(name, "").startswith("#")}
  return found.pop() if len(found) == 1 else None


@pytest.mark.slow
def test_a_setting_has_one_colour_on_the_whole_page(seeds):
  of_ppo = {key: colour_of(chart, "PPO, learned reward, target 4") for key, chart in charts(seeds).items()}
  assert all(of_ppo[key] for key in ("frontier", "two_rewards", "two_rewards_over_kl", "curve_kl", "curve_score"))
  assert len({colour for colour in of_ppo.values() if colour}) == 1
  both = {row["setting"] for row in charts(seeds)["curve_kl"].rows if row["run"] in ("seed_0/dpo_5", "seed_1/dpo_5")}
  assert both == {"DPO, β 5"}
  assert len(seeds.names) == len({name.name for name in seeds.names}) == 4 + 3 + 2 + 2  # two seeds, once each


def test_settings_are_shades_in_order_of_their_number(seeds):
  dpo = [name for name in seeds.names if name.method == "DPO"]
  assert [name.short for name in dpo] == ["β 0.05", "β 0.1", "β 1", "β 5"]
  assert [name.short for name in seeds.names if name.method == "PPO, learned reward"] == [
    "target 2",
    "target 4",
    "target 16",
  ]
  lightness = [lightness_of(name.colour) for name in dpo]
  assert all(left - right > 0.05 for left, right in itertools.pairwise(lightness))
  methods = [name.colour for name in seeds.styles.methods.values() if name.name not in ("reference", "SFT")]
  assert len(set(methods)) == len(methods)


def test_runs_stand_in_order_of_their_settings(tmp_path):
  for name, beta in {"dpo_005": 0.05, "dpo_01": 0.1, "dpo_1": 1.0, "dpo_05": 0.5}.items():
    for seed in (1, 0):
      make_stage(tmp_path / f"seed_{seed}" / name, "preference", {"loss.beta": beta, "seed": seed})
  names = [stage.name for stage in in_order(find_stages([tmp_path])[0])]
  assert names == [f"seed_{seed}/{name}" for name in ("dpo_005", "dpo_01", "dpo_05", "dpo_1") for seed in (0, 1)]


def test_more_methods_than_colours_are_told_apart(tmp_path):
  for i in range(len(PALETTE) + 4):
    for beta in (0.1, 0.2):
      values = {"loss.beta": beta, "optimizer.learning_rate": 1e-4 * (i + 1)}
      make_stage(tmp_path / f"{i}_{beta}", "preference", values)
  methods = styles_of(find_stages([tmp_path])[0]).methods
  assert len(methods) == len({name.colour for name in methods.values()}) == len(PALETTE) + 4


@pytest.mark.slow
def test_losses_of_unlike_kinds_have_charts_of_their_own(seeds, tmp_path):
  found = charts(seeds)
  assert {found[f"curve_loss_{kind}"].title for kind in ("dpo", "ipo", "preferred_ft")} == {
    "loss: DPO", "loss: IPO", "loss: preferred-FT",
  }  # fmt: skip
  assert {row["setting"].split(",")[0] for row in found["curve_loss_dpo"].rows} == {"DPO"}
  make_experiment(tmp_path / "one")
  assert charts(content_of(find_stages([tmp_path / "one"])[0]))["curve_loss"].title == "loss"


@pytest.mark.slow
def test_another_reward_is_called_by_its_name(tmp_path):
  make_experiment(tmp_path / "runs")
  along, over = (
    charts(content_of(find_stages([tmp_path / "runs"])[0]))[key] for key in ("two_rewards", "two_rewards_over_kl")
  )
  assert (
    along.title == "True reward against reward learned" and along.spec["encoding"]["x"]["title"] == "reward learned"
  )
  assert {row["which"] for row in over.rows} == {"true reward", "reward learned"}


@pytest.mark.parametrize("end", [0.004, 0.26, 1.0, 7.3, 9.0, 12.0, 20.0, 64.0, 150.0, 8000.0])
def test_ticks_of_a_root_scale_have_room_and_reach_the_end(end):
  ticks = sqrt_ticks(end)
  places = [(tick / end) ** 0.5 for tick in ticks]
  gaps = [right - left for left, right in itertools.pairwise(places)]
  assert ticks[0] == 0 and ticks[-1] <= end * (1 + 1e-6) and places[-1] > 0.7
  assert min(gaps) >= ROOM * (1 - 1e-6) and 5 <= len(ticks) <= 18


@pytest.mark.parametrize("colour", ["#2f7fc1", "#e06c1f", "#d1495b", "#808080"])
def test_shades_are_evenly_light(colour):
  found = shades(colour, 5)
  steps = [lightness_of(left) - lightness_of(right) for left, right in itertools.pairwise(found)]
  assert max(steps) - min(steps) < 0.01 and min(steps) > 0.05  # as eight bits round them
  assert shades(colour, 1) == [colour] and lightness_of(on_black(found[-1])) > 0.5
  assert shade(colour, lightness_of(colour)) == colour


def test_texts_stand_beside_their_points_and_over_nothing():
  points = [(float(x), float(y)) for x in range(1, 10, 2) for y in range(1, 10, 2)]
  texts = [{"text": "β 0.1", "places": [point]} for point in points]
  line = [(0.0, 5.5), (10.0, 5.5)]
  size, font, radius = (400.0, 400.0), 9.0, 5.0
  found = placed(texts, [line, [(0.0, 0.0), (10.0, 10.0)]], points, size=size, font=font, radius=radius, sqrt=False)
  assert len(found) == len(points)
  wide, high = 0.5 * font * 5, font
  places = [(40 * row["kl"], 40 * (10 - row["reward"])) for row in found]
  for (x, y), (u, v) in itertools.combinations(places, 2):
    assert abs(x - u) > wide or abs(y - v) > 0.9 * high
  for (x, y), (a, b) in itertools.product(places, points):
    assert abs(x - 40 * a) > wide / 2 or abs(y - 40 * (10 - b)) > high / 2
  for (x, y), (a, b) in zip(places, points, strict=True):
    assert abs(x - 40 * a) < 40 and abs(y - 40 * (10 - b)) < 20
    assert abs(y - 40 * 4.5) > high / 2  # the line
  crowd = [(5.0 + 0.01 * i, 5.0 + 0.01 * j) for i in range(-60, 60, 4) for j in range(-60, 60, 4)]
  hidden = [{"text": "β 0.1", "places": [(5.0, 5.0)]}]
  assert placed(hidden, [[(0.0, 0.0), (10.0, 10.0)]], crowd, size=size, font=font, radius=radius, sqrt=False) == []


@pytest.mark.parametrize(
  "longest, width, columns", [(4, 560, 3), (24, 560, 3), (30, 560, 2), (70, 560, 1), (22, 234, 2), (40, 234, 1)]
)
def test_a_legend_in_a_file_is_as_wide_as_the_file(longest, width, columns):
  spec = {"encoding": {"color": {"legend": {"orient": "bottom", "values": ["a", "x" * longest]}}}}
  (legend,) = [as_file(spec, width, small=width < 300)["encoding"]["color"]["legend"]]
  assert legend["columns"] == columns and legend["labelLimit"] < width


def test_what_all_names_share_is_left_out():
  assert shared_beginning(["a/b:c", "a/b:cd"]) == "a/b:"
  assert (
    shared_beginning(["seed_0/x", "seed_1/x"]) == shared_beginning(["a/b"]) == shared_beginning(["a/", "a/b"]) == ""
  )
