"""Writes docs/losses.md and its plots from the docstrings and functions of dpojax.losses.

python docs/make_losses.py
"""

import io
import pathlib

from matplotlib.figure import Figure
from PIL import Image

from dpojax.losses import LOSSES
from dpojax.report.loss_curves import draw_glance, draw_loss
from dpojax.report.loss_page import GLANCE, IMAGES, loss_page

DOCS = pathlib.Path(__file__).parent


def save(figure: Figure, path: pathlib.Path, dpi: int) -> None:
  """A PNG of 32 colours: a third of the size."""
  drawn = io.BytesIO()
  figure.savefig(drawn, dpi=dpi, format="png")
  Image.open(drawn).convert("RGB").quantize(32, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
  folder = DOCS / IMAGES
  folder.mkdir(parents=True, exist_ok=True)
  save(draw_glance(), folder / GLANCE, dpi=100)
  for name in LOSSES:
    save(draw_loss(name), folder / f"{name}.png", dpi=90)
  (DOCS / "losses.md").write_text(loss_page(), encoding="utf-8")


if __name__ == "__main__":
  main()
