"""`dpojax report`: one page over runs, sweeps and experiments, and its charts and tables as files."""

import pathlib
import sys

from dpojax import screen
from dpojax.cli.arguments import file_path
from dpojax.cli.options import Parser
from dpojax.errors import ConfigError
from dpojax.report.stages import find_stages

DESCRIPTION = """Compares runs: every folder with a stage.json in or below the folders given, whether they are runs, experiments,
sweeps or folders of seeds.

  dpojax report runs/frontier
  dpojax report runs/seed_0 runs/seed_1 --out=page

Writes index.html, which holds all it needs (charts, tables, samples; it fetches nothing), charts/ (each as PNG, SVG, PDF
and CSV) and tables/ (CSV). docs/report.md says how each number is made. Needs: pip install 'dpojax[report]'."""


def main(arguments: list[str]) -> int:
  """0 when the page is written."""
  parser = Parser(
    "dpojax report", DESCRIPTION, usage="dpojax report DIR... [--out=FOLDER] [--reward=NAME] [--title=TEXT]"
  )
  parser.add_argument("folders", nargs="+", metavar="DIR", type=file_path, help="folders of runs")
  parser.add_argument(
    "--out", metavar="FOLDER", type=file_path, help="where the page is written (DIR/report; of several DIRs: report)"
  )
  parser.add_argument(
    "--reward",
    default="",
    metavar="NAME",
    help="the reward that policies are compared by (true; else the first measured)",
  )
  parser.add_argument("--title", default="", help="of the page (the names of the folders)")
  options = parser.parse_args(arguments)
  for missing in (name for name in ("altair", "vl_convert") if not _installed(name)):
    raise ConfigError(f"dpojax report needs {missing}: pip install 'dpojax[report]'")
  stages, problems = find_stages(options.folders)

  from dpojax.report.page.content import content_of
  from dpojax.report.page.files import write_page

  content = content_of(stages, problems, options.reward)
  several = len(options.folders) > 1
  out = pathlib.Path(options.out or ("report" if several else pathlib.Path(options.folders[0], "report")))
  title = options.title or ", ".join(pathlib.Path(folder).resolve().name for folder in options.folders)
  live = screen.is_live(sys.stderr)
  paths = write_page(content, out, title, say=lambda text: screen.live_line(sys.stderr, [text]) if live else None)
  if live:
    screen.live_line(sys.stderr, [])
  for problem in content.problems:
    print(f"left out: {problem}", file=sys.stderr)
  runs = "1 run" if len(content.stages) == 1 else f"{len(content.stages)} runs"
  print(f"{runs}: {', '.join(section.title for section in content.sections)}")
  print(
    f"page: {out / paths[0]} ({(out / paths[0]).stat().st_size / 1e6:.1f} MB), and {len(paths) - 1} files beside it"
  )
  return 0


def _installed(name: str) -> bool:
  import importlib.util

  return importlib.util.find_spec(name) is not None
