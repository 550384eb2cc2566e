"""The page in a real browser: hover, sort, filter, keyboard, dark, phone; nothing fetched, no script injected, no errors."""

import contextlib
import os
import shutil
import time

import pytest
from page_runs import CHINESE, ENDS, make_hostile

from dpojax.cli.main import main

pytest.importorskip("altair", reason="needs pip install 'dpojax[report]'")
pytest.importorskip("vl_convert", reason="needs pip install 'dpojax[report]'")
playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
  pytest.skip("needs Chromium: apt-get install chromium", allow_module_level=True)

pytestmark = pytest.mark.slow
WIDE, PHONE = 1400, 390


@pytest.fixture(scope="module")
def index(tmp_path_factory):
  folder = make_hostile(tmp_path_factory.mktemp("browser") / "runs")
  assert main(["report", str(folder), f"--out={folder.parent / 'page'}"]) == 0
  return folder.parent / "page" / "index.html"


@pytest.fixture(scope="module")
def browser():
  with playwright.sync_playwright() as driver:
    # As root, as in a container, Chromium starts without its sandbox only; the page is our own.
    arguments = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
    started = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
    yield started
    started.close()


@pytest.fixture
def opened(browser, index):
  """Opens the page at a width and in a scheme, gives it; in the end nothing was said on the console and nothing fetched."""
  with contextlib.ExitStack() as stack:

    def open_page(width=WIDE, scheme="light"):
      context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
      stack.callback(context.close)
      page = context.new_page()
      page.said, page.asked = [], []
      page.on("console", lambda message: page.said.append(message.text))
      page.on("pageerror", lambda error: page.said.append(str(error)))
      page.on("request", lambda request: page.asked.append(request.url))
      page.goto(index.as_uri())
      page.wait_for_selector("html[data-drawn]", timeout=60_000)
      pages.append(page)
      return page

    pages = []
    yield open_page
    for page in pages:
      assert page.said == []
      assert page.asked == [index.as_uri()]
      assert page.evaluate("window.attacked") is None


def until(page, expression):
  """Waits for an expression to be true; the page's policy forbids what Playwright's own waiting does."""
  end = time.monotonic() + 30
  while not page.evaluate(expression):
    assert time.monotonic() < end, expression
    time.sleep(0.05)


def column(page, table, name):
  """Texts of the visible cells of a column."""
  return page.evaluate(
    """([table, name]) => {
      const found = document.getElementById(`table-${table}`);
      const heads = [...found.tHead.rows[0].cells].map((cell) => cell.textContent);
      return [...found.tBodies[0].rows].filter((row) => row.offsetParent).map((row) => row.cells[heads.indexOf(name)].textContent);
    }""",
    [table, name],
  )


def sort_button(page, table, name):
  return page.locator(f"#table-{table} thead button", has_text=name).first


def test_every_chart_is_drawn(opened):
  page = opened()
  charts = page.locator(".chart")
  assert charts.count() > 8
  for i in range(charts.count()):
    assert charts.nth(i).locator("svg path").count() > 2, charts.nth(i).get_attribute("id")


def test_a_point_tells_what_it_is(opened):
  page = opened()
  marks = page.locator("#chart-frontier svg g.mark-symbol path")
  marks.last.hover(force=True)
  tip = page.locator("#vg-tooltip-element.visible")
  tip.wait_for(timeout=5000)
  text = tip.inner_text()
  assert all(word in text for word in ("method", "setting", "seed", "step", "KL, nats", "±"))
  page.mouse.move(5, 5)
  until(page, "!document.querySelector('#vg-tooltip-element.visible')")


def test_a_hostile_name_in_a_tooltip_stays_text(opened):
  page = opened()
  place = page.locator("#chart-frontier svg g.mark-symbol path[aria-label*='script']")
  assert place.count() >= 1
  place.first.hover(force=True)
  tip = page.locator("#vg-tooltip-element.visible")
  tip.wait_for(timeout=5000)
  assert "<script>" in tip.inner_text() and tip.locator("script").count() == 0


def test_a_click_on_a_legend_hides_and_shows(opened):
  page = opened()
  symbols = "#chart-frontier svg g.mark-symbol path"
  before = page.locator(symbols).count()
  button = page.locator(".legend[data-group=frontier] button", has_text="DPO").first
  button.click()
  until(page, f"document.querySelectorAll('{symbols}').length < {before}")
  assert button.get_attribute("aria-pressed") == "false"
  button.click()
  until(page, f"document.querySelectorAll('{symbols}').length === {before}")
  lines = "#chart-curve_kl svg g.mark-line path"
  count = page.locator(lines).count()
  assert count > 3
  page.locator(".legend[data-group=runs] button[data-name='DPO, β 0.1']").dblclick()
  until(page, f"document.querySelectorAll('{lines}').length === 1")
  page.locator(".legend[data-group=runs] button[data-all=show]").click()
  until(page, f"document.querySelectorAll('{lines}').length === {count}")
  whole = page.locator(".legend[data-group=runs] button.whole", has_text="DPO")
  whole.click()  # all settings of a method at once
  until(page, f"document.querySelectorAll('{lines}').length === {count - 3}")
  assert whole.get_attribute("aria-pressed") == "false"
  whole.dblclick()
  until(page, f"document.querySelectorAll('{lines}').length === 3")


def test_oracle_and_looks_can_be_hidden(opened):
  page = opened()
  for name, marks in (
    ("oracle, 95 % band", "mark-area path"),
    ("looks on the way", "mark-symbol path[fill=transparent]"),
  ):
    found = f"#chart-frontier svg g.{marks}"
    assert page.locator(found).count() > 0, name
    page.locator(f".legend[data-group=frontier] button[data-name='{name}']").click()
    until(page, f"document.querySelectorAll('{found}').length === 0")


def test_ticks_follow_what_is_shown_and_stand_under_their_labels(opened):
  page = opened()

  def labels():
    return page.evaluate(
      """() => {
        const middle = (element) => { const box = element.getBoundingClientRect(); return box.x + box.width / 2; };
        const axis = [...document.querySelectorAll("#chart-frontier svg g.role-axis")].find((one) => one.textContent.includes("KL"));
        const shown = [...axis.querySelectorAll("g.role-axis-label text")].filter((one) => one.getAttribute("opacity") !== "0");
        const ticks = [...axis.querySelectorAll("g.role-axis-tick line")].map(middle);
        return shown.map((one) => [one.textContent, Math.min(...ticks.map((tick) => Math.abs(tick - middle(one))))]);
      }"""
    )

  first = labels()
  assert {"0", "0.5", "1", "2", "4"} <= {text for text, _ in first}
  assert all(distance < 1.5 for _, distance in first)
  page.locator(".legend[data-group=frontier] button[data-name='<script>window.attacked = true</script>']").dblclick()
  until(page, "document.querySelectorAll('#chart-frontier svg g.mark-symbol path').length === 1")
  assert {"0.1", "0.2", "1"} <= {text for text, _ in labels()}


def test_tables_are_sorted_by_number_and_by_text(opened):
  page = opened()
  button = sort_button(page, "runs", "KL, nats")
  for order, falling in (("descending", True), ("ascending", False)):
    button.click()
    assert button.locator("..").get_attribute("aria-sort") == order
    cells = column(page, "runs", "KL, nats")
    numbers = [float(cell.split()[0]) for cell in cells if cell != "-"]
    assert numbers == sorted(numbers, reverse=falling) and len(numbers) == 5
    assert cells[len(numbers) :] == ["-"] * (len(cells) - len(numbers))  # what was not measured comes last
  sort_button(page, "tournament_1", "strength").click()
  strengths = [float(cell.split()[0]) for cell in column(page, "tournament_1", "strength")]
  assert strengths == sorted(strengths, reverse=True) and strengths[-1] < -1  # digits in order would put -1 before -5
  sort_button(page, "runs", "recipe").click()
  recipes = column(page, "runs", "recipe")
  assert recipes == sorted(recipes)
  assert page.locator("#table-runs th[aria-sort=ascending]").count() == 1


def test_headings_stand_over_their_numbers(opened):
  page = opened()
  sides = page.evaluate(
    """() => [...document.querySelector("#table-runs").tHead.rows[0].cells].map((head) => {
      const cell = document.querySelector("#table-runs").tBodies[0].rows[0].cells[head.cellIndex];
      const button = head.querySelector("button");
      return [head.textContent, getComputedStyle(button).textAlign, getComputedStyle(cell).textAlign];
    })"""
  )
  named = {name: (head, cell) for name, head, cell in sides}
  assert named["KL, nats"] == ("right", "right") and named["recipe"] == ("left", "left")
  assert all(head == cell for head, cell in named.values()), named


@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_what_scrolls_says_so(opened, width):
  page = opened(width)
  box = page.locator(".box", has=page.locator("#table-runs"))
  further = page.locator(".tools", has=page.locator("#filter-runs")).locator(".further")
  assert box.get_attribute("data-right") == "" and box.get_attribute("data-left") is None
  assert further.inner_text().endswith("more columns →")
  shade = "getComputedStyle(document.querySelector('#table-runs').closest('.box'), '::after').opacity"
  until(page, f"{shade} === '1'")
  page.evaluate("document.querySelector('#table-runs').parentElement.scrollLeft = 1e6")
  until(page, f"{shade} === '0'")
  assert box.get_attribute("data-left") == "" and further.inner_text() == ""


def test_a_table_is_filtered(opened):
  page = opened()
  page.get_by_label("Filter").last.fill("DPO finished")
  assert column(page, "runs", "run") == ["dpo_0.1", "dpo_0.5", "dpo_2"]
  assert page.locator("output[for=filter-runs]").inner_text().startswith("3 of ")
  page.get_by_label("Filter").last.fill("")
  assert len(column(page, "runs", "run")) > 8


def test_all_can_be_done_by_keyboard(opened):
  page = opened()
  page.locator("#filter-runs").focus()
  page.keyboard.type("preference")
  assert len(column(page, "runs", "run")) == 3
  page.keyboard.press("Tab")  # the table's box, which scrolls
  assert page.evaluate("document.activeElement.className") == "scroll"
  page.keyboard.press("Tab")
  assert page.evaluate("document.activeElement.tagName") == "BUTTON"
  page.keyboard.press("Enter")
  page.keyboard.press("Enter")
  assert column(page, "runs", "run") == ["dpo_2", "dpo_0.5", "dpo_0.1"]
  page.locator(".legend[data-group=runs] button.name").first.focus()
  page.keyboard.press("Space")
  assert page.locator(".legend[data-group=runs] button.name").first.get_attribute("aria-pressed") == "false"
  shown = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
  assert shown == "solid"


def test_samples_are_chosen_by_prompt(opened):
  page = opened()
  assert page.locator("#sample-text").inner_text() == "prompt 0"
  texts = page.locator(".answer p").all_inner_texts()
  assert CHINESE in texts and ENDS in texts and page.locator(".answer img").count() == 0
  page.locator("#sample-on").click()
  assert page.locator("#sample-text").inner_text() == "prompt 1"
  page.locator("#sample-prompt").select_option(index=5)
  assert page.locator("#sample-text").inner_text() == "prompt 5"
  page.locator("#sample-set").select_option(index=1)
  assert page.locator("#sample-text").inner_text() == "prompt 0"


def test_light_and_dark_follow_the_reader(opened):
  page = opened(scheme="dark")

  def colours():
    return page.evaluate(
      """() => [getComputedStyle(document.body).backgroundColor,
        document.querySelector('#chart-frontier svg g.mark-text text').getAttribute('fill'),
        document.querySelector('#chart-curve_kl svg g.mark-line path').getAttribute('stroke')]"""
    )

  dark = colours()
  page.emulate_media(color_scheme="light")
  until(page, "document.documentElement.dataset.drawn === 'light'")
  light = colours()
  assert dark[0] == "rgb(20, 23, 27)" and light[0] == "rgb(255, 255, 255)"
  assert dark[1] != light[1] and dark[2] != light[2]


def test_on_a_phone_tables_scroll_in_their_box_and_charts_fit(opened):
  page = opened(PHONE)
  assert page.evaluate("document.documentElement.scrollWidth") <= PHONE
  assert page.evaluate("document.querySelector('#table-runs').scrollWidth") > PHONE
  for box in page.locator(".scroll").all():
    assert box.bounding_box()["width"] <= PHONE
  names = page.locator("#table-policies tbody th")
  assert names.first.inner_text() == "sft" and names.first.get_attribute("title") == "compared:sft"
  assert page.evaluate(
    "[...document.querySelectorAll('tbody th')].every((cell) => cell.scrollWidth <= cell.clientWidth)"
  )
  for chart in page.locator(".chart svg").all():
    place = chart.bounding_box()
    assert place["x"] >= 0 and place["x"] + place["width"] <= PHONE + 1
  page.locator("#chart-frontier svg g.mark-symbol path").last.hover(force=True)
  tip = page.locator("#vg-tooltip-element.visible")
  tip.wait_for(timeout=5000)
  assert tip.bounding_box()["x"] >= 0


def test_the_page_reads_without_scripts(browser, index):
  context = browser.new_context(java_script_enabled=False)
  page = context.new_page()
  page.goto(index.as_uri())
  assert page.locator("#table-methods tbody tr").count() >= 3
  context.close()


def test_an_injected_script_would_not_run(browser, index, tmp_path):
  """Were something not escaped, the page's policy would still stop it: it is the policy that is tried here."""
  text = index.read_text(encoding="utf-8")
  broken = tmp_path / "broken.html"
  broken.write_text(
    text.replace(
      "</main>", "<script>window.attacked = true</script><img src=x onerror='window.attacked = true'></main>"
    )
  )
  context = browser.new_context(offline=True)
  page = context.new_page()
  said = []
  page.on("console", lambda message: said.append(message.text))
  page.goto(broken.as_uri())
  page.wait_for_selector("html[data-drawn]", timeout=60_000)
  assert page.evaluate("window.attacked") is None
  assert any("Content Security Policy" in line for line in said)
  context.close()
