"""Run notebooks (all, or those named) and save their outputs, then clean and export.

`--slow` also runs slow cells, `--slow=WORD` only those that hold the word: `--slow=zoo` those that want packages of `make zoo`.
"""
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
SKIP = re.compile(r"^#\|\s*(slow|notest|kipoi|gpu|zoo|eval:\s*false)", re.M)


def run(path: Path, slow: str | None) -> None:
    "Execute cell by cell. A skipped cell keeps its saved outputs. slow: which slow cells to run, None for none."
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=3600, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}})
    with client.setup_kernel():
        for i, cell in enumerate(notebook.cells):
            wanted = not SKIP.search(cell.source) or (slow is not None and slow in cell.source)
            if cell.cell_type == "code" and wanted:
                client.execute_cell(cell, i)
                cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    nbformat.write(notebook, path)


def main() -> None:
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # with another backend the kernel saves no figure
    slow = next((a.partition("=")[2] for a in sys.argv[1:] if a.split("=")[0] == "--slow"), None)
    names = [a for a in sys.argv[1:] if not a.startswith("-")]
    paths = [ROOT / "nbs" / f"{n}.ipynb" for n in names] or sorted((ROOT / "nbs").glob("**/*.ipynb"))
    for path in paths:
        print(path.relative_to(ROOT), flush=True)
        run(path, slow)
    subprocess.run(["nbdev-clean"], cwd=ROOT, check=True)
    subprocess.run(["nbdev-export"], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
