"""Write README.md from nbs/index.ipynb, without Quarto; pictures go to docs/."""
import os
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
HIDDEN = re.compile(r"^#\|\s*(hide|default_exp)", re.M)


def from_root(match: re.Match) -> str:
    "A link as it reads from the root, where README.md is, and not from nbs."
    text, target = match.groups()
    return match[0] if re.match("[a-z]+:|#", target) else f"[{text}]({os.path.normpath(os.path.join('nbs', target))})"


def main() -> None:
    notebook = nbformat.read(ROOT / "nbs" / "index.ipynb", as_version=4)
    notebook.cells = [c for c in notebook.cells if not (c.cell_type == "code" and HIDDEN.search(c.source))]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            if "#| echo: false" in cell.source:  # only what it shows
                cell["source"] = ""
            cell["outputs"] = [o for o in cell.outputs if o.get("name") != "stderr"]
            cell["source"] = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
        else:
            cell["source"] = re.sub(r"\[([^\]]*)\]\(([^)]+)\)", from_root, cell.source)
    body, resources = MarkdownExporter().from_notebook_node(notebook)
    (ROOT / "docs").mkdir(exist_ok=True)
    for picture in (ROOT / "docs").glob("readme_*"):
        picture.unlink()
    for name, data in resources["outputs"].items():
        (ROOT / "docs" / f"readme_{name}").write_bytes(data)
        body = body.replace(f"({name})", f"(docs/readme_{name})")
    body = re.sub(r"```(python)?\n\s*\n```\n*", "", body)  # cells of which only a figure is shown
    body = re.sub(r"<style.*?</style>\n*", "", body, flags=re.S)
    (ROOT / "README.md").write_text(re.sub(r"\n{3,}", "\n\n", body).strip() + "\n")


if __name__ == "__main__":
    main()
