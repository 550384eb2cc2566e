"""Checks a built site: every link leads to a file and a place in it, and no page loads anything from elsewhere.

python docs/check_links.py docs/_build/html
"""

import html.parser
import pathlib
import sys
import urllib.parse

SOURCES = "_modules"  # where sphinx.ext.viewcode writes the files of the package
LOADED = {"script": "src", "img": "src", "iframe": "src", "link": "href"}


class Page(html.parser.HTMLParser):
  """The links of a page, the places that links can lead to, and what it loads."""

  def __init__(self, text: str):
    super().__init__()
    self.links: set[str] = set()
    self.places: set[str] = set()
    self.loaded: set[str] = set()
    self.feed(text)

  def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
    found = dict(attrs)
    self.places |= {value for name in ("id", "name") if (value := found.get(name))}
    if tag == "a" and found.get("href"):
      self.links.add(str(found["href"]))
    if tag in LOADED and found.get(LOADED[tag]):
      self.loaded.add(str(found[LOADED[tag]]))


def faults(folder: pathlib.Path) -> list[str]:
  """A line for each link that leads nowhere and each file that comes from elsewhere."""
  pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.html"))}
  found = []
  for path, page in pages.items():
    name = path.relative_to(folder.resolve())
    for link in sorted(page.links | page.loaded):
      parts = urllib.parse.urlsplit(link)
      if parts.scheme or parts.netloc:
        if link in page.loaded and parts.scheme != "data":
          found.append(f"{name} loads {link}")
        continue
      target = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
      if not target.is_file():
        found.append(f"{name} links to {link}, which is no file")
      elif name.parts[0] == SOURCES:
        continue  # "[docs]" beside each name of a file, documented or not
      elif parts.fragment and target in pages and urllib.parse.unquote(parts.fragment) not in pages[target].places:
        found.append(f"{name} links to {link}, where there is no such place")
  return found


if __name__ == "__main__":
  lines = faults(pathlib.Path(sys.argv[1]))
  print("\n".join(lines))
  sys.exit(bool(lines))
