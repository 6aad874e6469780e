"""Where the references in notebooks and Markdown lead. `python tools/links.py` asks the network about those outside."""
import re
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import mistune
import nbformat

ROOT = Path(__file__).resolve().parents[1]
PATTERNS = ("*.md", "docs/**/*.md", "deepmr/data/*.md", "nbs/**/*.ipynb")


class Found(HTMLParser):
    "References and anchors of a page; headings give the anchors that GitHub, Jupyter and Quarto make of them."

    def __init__(self, page: str):
        super().__init__()
        self.references, self.anchors, self._heading = [], set(), None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.references += [attrs[a] for a in ("href", "src") if attrs.get(a)]
        self.anchors |= {attrs[a] for a in ("id", "name") if attrs.get(a)}
        if re.fullmatch("h[1-6]", tag):
            self._heading = ""

    def handle_data(self, data):
        if self._heading is not None:
            self._heading += data

    def handle_endtag(self, tag):
        if re.fullmatch("h[1-6]", tag) and self._heading is not None:
            title = self._heading.strip()
            self.anchors |= {title.replace(" ", "-"), re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")}
            self._heading = None


def markdown(path: Path) -> str:
    "The text of a Markdown file, or of a notebook's Markdown cells and outputs."
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    cells = nbformat.read(path, as_version=4).cells
    shown = [o["data"]["text/markdown"] for c in cells for o in c.get("outputs", ()) if "text/markdown" in o.get("data", {})]
    return "\n\n".join([c.source for c in cells if c.cell_type == "markdown"] + shown)


def read(path: Path) -> Found:
    "References and anchors of a Markdown file, a notebook or an HTML page."
    if path.suffix == ".html":
        return Found(path.read_text(encoding="utf-8"))
    return Found(mistune.create_markdown(escape=False, plugins=["table", "url"])(markdown(path)))


def pages() -> list[Path]:
    "Everything a reader may open, in order."
    return sorted({p for pattern in PATTERNS for p in ROOT.glob(pattern) if ".ipynb_checkpoints" not in p.parts})


def broken(path: Path) -> list[str]:
    "References of a page to files or anchors that are not there."
    wrong = []
    for reference in read(path).references:
        url = urlsplit(reference)
        if url.scheme or url.netloc:
            continue
        target = (path.parent / unquote(url.path)).resolve() if url.path else path
        if not target.exists() or (url.fragment and target.is_file() and read(target).anchors.isdisjoint({url.fragment, unquote(url.fragment)})):
            wrong.append(reference)
    return wrong


def unknown_chapters(path: Path) -> list[str]:
    "Names of notebooks in backticks, such as `06_mr`, that are no notebook."
    known = {p.stem for p in (ROOT / "nbs").rglob("*.ipynb")}
    return [n for n in re.findall(r"`(\d\d[a-z]?_\w+|[ABET]\d_\w+)`", markdown(path)) if n not in known]


def external() -> dict[str, list[str]]:
    "References to other places, each with the pages that make it."
    where: dict[str, list[str]] = {}
    for path in pages():
        for reference in read(path).references:
            if urlsplit(reference).scheme in ("http", "https"):
                where.setdefault(reference, []).append(str(path.relative_to(ROOT)))
    return where


def answer(url: str) -> str:
    "What a server says to a request: a status, or why there is none."
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "Mozilla/5.0 (link check)"})
        with urllib.request.urlopen(request, timeout=20) as reply:
            return str(reply.status)
    except urllib.error.HTTPError as error:
        return str(error.code)
    except OSError as error:
        return f"no answer ({error})"


def main() -> int:
    where = external()
    with ThreadPoolExecutor(4) as pool:
        said = dict(zip(where, pool.map(answer, where)))
    for url, what in said.items():
        print(f"{what:>4}  {url}  ({', '.join(sorted(set(where[url])))})")
    return int(any(what in ("404", "410") for what in said.values()))  # a publisher that turns programs away is no broken link


if __name__ == "__main__":
    sys.exit(main())
