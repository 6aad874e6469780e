"""The notebooks as a website in _docs: by nbdev where Quarto is installed, by nbconvert elsewhere."""
import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from links import ROOT, broken
from nbconvert import HTMLExporter

NBS, DOCS = ROOT / "nbs", ROOT / "_docs"
STYLE = """<style>body { max-width: 62rem; margin: 0 auto !important; } nav { font: 14px/1.9 sans-serif; padding: 1rem; }
nav a { margin-right: .9em; white-space: nowrap; } img { max-width: 100%; }</style>"""


def chapters() -> list[Path]:
    "Notebooks without their suffix, relative to nbs, the index first."
    found = sorted(p.relative_to(NBS).with_suffix("") for p in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
    return sorted(found, key=lambda p: (p.name != "index", len(p.parts), p))


def prepared(path: Path) -> nbformat.NotebookNode:
    "A notebook without the cells and the code that nbdev hides, too."
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [c for c in notebook.cells if not re.search(r"^#\|\s*(hide|default_exp)\s*$", c.source, re.M)]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            hidden = "#| echo: false" in cell.source
            cell.source = "" if hidden else re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
    return notebook


def page(name: Path, names: list[Path], repository: str) -> str:
    "A chapter as HTML: links to notebooks lead to their pages, links out of nbs to the repository."
    body, _ = HTMLExporter(embed_images=True).from_notebook_node(prepared(NBS / f"{name}.ipynb"),
                                                                 {"metadata": {"name": name.name, "path": str((NBS / name).parent)}})
    up = "../" * (len(name.parts) - 1)
    nav = "<nav>" + " ".join(f'<a href="{up}{n}.html">{n.name}</a>' for n in names) + "</nav>"

    def lead(match: re.Match) -> str:
        target = match[1]
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        file = (NBS / name.parent / target.partition("#")[0]).resolve()
        if file.is_relative_to(NBS):
            return f'href="{target.replace(".ipynb", ".html")}"'
        return f'href="{repository}/blob/main/{file.relative_to(ROOT)}"'

    body = re.sub(r'href="([^"]+)"', lead, body)
    return re.sub(r"(<body[^>]*>)", lambda m: STYLE + m[1] + nav, body, count=1)


def main() -> None:
    if shutil.which("quarto"):
        sys.exit(subprocess.run(["nbdev-docs"], cwd=ROOT).returncode)
    shutil.rmtree(DOCS, ignore_errors=True)
    ini = configparser.ConfigParser(delimiters=["="])
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    names, repository = chapters(), ini["DEFAULT"]["git_url"]
    for name in names:
        (DOCS / name).parent.mkdir(parents=True, exist_ok=True)
        (DOCS / f"{name}.html").write_text(page(name, names, repository), encoding="utf-8")
    wrong = {p.name: b for p in DOCS.rglob("*.html") if (b := broken(p))}
    print(f"{len(names)} pages: {DOCS.name}/index.html (without Quarto: by nbconvert)")
    sys.exit(f"broken references: {wrong}" if wrong else 0)


if __name__ == "__main__":
    main()
