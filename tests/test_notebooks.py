"""Notebooks run, are clean, become pages, and match the package; their order, the metadata and the README have one home each."""
import configparser
import filecmp
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from itertools import groupby
from pathlib import Path

import pytest
from nbdev.serve import proc_nbs
from nbdev.test import test_nb as run_notebook

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
NBDEV = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["nbdev"]


def cells(path):
    "The cells of a notebook, the source of each as one text."
    return [cell | {"source": "".join(cell["source"])} for cell in json.loads(path.read_text())["cells"]]


def exported(cell) -> bool:
    return cell["cell_type"] == "code" and bool(re.search(r"^#\|\s*exporti?\b", cell["source"], re.M))


def copied(work: Path, *names: str) -> Path:
    "A folder with copies of these files and folders of the project."
    work.mkdir(parents=True)
    for name in names:
        source = ROOT / name
        shutil.copytree(source, work / name) if source.is_dir() else shutil.copy(source, work / name)
    return work


NBDEV_NEEDS = ("nbs", "deepmr", "pyproject.toml", "settings.ini", "README.md", "setup.py")


LONG = ("A4_your_own_cell_line", "T5_splicing")  # both train networks


@pytest.mark.filterwarnings("ignore:model .* computed in full")  # a warning that some notebooks show
@pytest.mark.parametrize("notebook", [pytest.param(p, marks=[pytest.mark.long] * (p.stem in LONG), id=p.stem) for p in NOTEBOOKS])
def test_notebook_runs(notebook, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    passed, _ = run_notebook(notebook, skip_flags=NBDEV["tst_flags"].split(), basepath=ROOT)
    assert passed


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_saved_outputs_hold_no_error_and_no_path_of_a_machine(notebook):
    for cell in cells(notebook):
        assert not [o for o in cell.get("outputs", []) if o["output_type"] == "error"], cell["source"][:200]
        for output in cell.get("outputs", []):
            text = json.dumps({k: v for k, v in output.get("data", output).items() if not k.startswith("image/")})
            assert not re.search(r"/(home|root|Users|work|tmp)/", text), text[:300]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_figure_is_saved(notebook):
    "`tools/run_notebooks.py` saves figures; a kernel that is started with another backend of matplotlib does not."
    drawing = [c for c in cells(notebook) if c["cell_type"] == "code" and re.search(r"^[^#'\"]*plt\.show\(\)", c["source"], re.M)]
    for cell in drawing:
        assert any("image/png" in o.get("data", {}) for o in cell["outputs"]), cell["source"][:200]


@pytest.mark.long
@pytest.mark.parametrize("package, words", [("distributed", r"distributed|\bscheduler"), ("kipoi", "kipoi")])  # not torch's lr_scheduler
def test_notebooks_pass_without_an_optional_package(package, words, tmp_path):
    "As someone who has not installed it would run `nbdev-test`, on the notebooks whose code speaks of it. Each says what it skips."
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: that is how test_notebook_runs ran")
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{package!r}] = None\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    about = [p for p in NOTEBOOKS if any(c["cell_type"] == "code" and not exported(c) and re.search(words, c["source"]) for c in cells(p))]
    failed = {p.stem: done.stderr[-1000:] for p in about
              if (done := subprocess.run(["nbdev-test", str(p)], cwd=ROOT, env=environment, capture_output=True, text=True)).returncode}
    assert about and not failed


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "A copy of the project for nbdev to work in."
    return copied(tmp_path_factory.mktemp("site") / ROOT.name, *NBDEV_NEEDS, ".gitignore")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_becomes_a_page(site, notebook):
    "As in `nbdev-proc-nbs`, whose own message does not name the file."
    within = notebook.relative_to(ROOT / "nbs")
    proc_nbs(str(site / "nbs"), n_workers=0, file_glob=notebook.name)
    page = cells(site / "_proc" / within)
    assert re.search("^title: .*\n", page[0]["source"], re.M) and "description: " in page[0]["source"], "a chapter begins with # title and > quote"
    kept = re.sub(r"\[(`[^`]*`)\]\([^)]*\)", r"\1", "\n".join(c["source"] for c in page))  # nbdev makes links of the names in backticks
    lost = [c["source"][:80] for c in cells(notebook)[1:] if c["cell_type"] == "markdown"
            and re.sub(r"\[(`[^`]*`)\]\([^)]*\)", r"\1", c["source"].split("\n")[0]) not in kept]
    assert not lost, "not in the page"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_chapter_begins_with_its_title_and_one_quote_alone(notebook):
    "nbdev makes the head of the page from the first cell, and drops what else is in it."
    first = cells(notebook)[0]
    assert first["cell_type"] == "markdown" and re.fullmatch(r"# .+\n+(> .+\n?)+", first["source"]), first["source"][:300]


def test_what_nbdev_leaves_behind_is_ignored_by_git(site, tmp_path):
    "By the command itself; a stand-in for Quarto keeps nbdev from installing it."
    (tmp_path / "quarto").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "quarto").chmod(0o755)
    environment = os.environ | {"PATH": os.pathsep.join([str(tmp_path), os.environ["PATH"]]), "PYTHONPATH": str(site)}
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(site)]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "all"]):
        subprocess.run([*git, *command], check=True)
    subprocess.run(["nbdev-proc-nbs", "--file-glob", "index.ipynb", "--n-workers", "0"], cwd=site, env=environment, check=True)
    assert (site / "_proc" / "index.ipynb").exists() and (site / "nbs" / "sidebar.yml").exists()
    assert subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout == ""


def test_export_and_clean_are_up_to_date(tmp_path):
    work = copied(tmp_path / ROOT.name, *NBDEV_NEEDS)
    for command in ("nbdev-clean", "nbdev-export"):
        subprocess.run([command], cwd=work, check=True)
    files = [p.relative_to(work) for p in [*work.glob("nbs/**/*.ipynb"), *work.glob("deepmr/**/*.py")]]
    _, stale, missing = filecmp.cmpfiles(ROOT, work, files, shallow=False)
    assert not stale and not missing, f"run nbdev-clean and nbdev-export: {stale + missing}"


def test_version_is_that_of_settings_ini():
    ini = configparser.ConfigParser(delimiters=["="])
    ini.read(ROOT / "settings.ini")
    assert f'__version__ = "{ini["DEFAULT"]["version"]}"' in (ROOT / "deepmr" / "__init__.py").read_text()
    assert ini["DEFAULT"]["lib_path"] == NBDEV["lib_path"]


def test_readme_is_that_of_the_index_notebook(tmp_path):
    copy = copied(tmp_path / "deepmr", "nbs", "tools")
    subprocess.run([sys.executable, str(copy / "tools" / "make_readme.py")], check=True)
    assert (copy / "README.md").read_text() == (ROOT / "README.md").read_text(), "run make readme"


def sections(markdown: str) -> list[tuple[str, str]]:
    "(heading, what stands below it and before the next heading) of a Markdown text; fenced code is taken out first."
    parts = re.split(r"^(#+ .*)$", re.sub(r"^```.*?^```$", "(code)", markdown, flags=re.M | re.S), flags=re.M)
    return list(zip(parts[1::2], parts[2::2]))


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "deepmr/data/hepg2_model_card.md"])
def test_every_heading_has_content_and_every_colon_something_after_it(page):
    found = sections((ROOT / page).read_text(encoding="utf-8"))
    assert found
    for i, (heading, text) in enumerate(found):
        level = heading.count("#", 0, heading.index(" "))
        deeper = i + 1 < len(found) and found[i + 1][0].startswith("#" * (level + 1))
        assert text.strip() or deeper, f"nothing under {heading!r}"
        assert not text.strip().endswith(":"), f"nothing after the colon that ends {heading!r}"


def test_the_check_of_headings_finds_what_is_missing():
    text = "# A\n\n## B\ntext:\n\n## C\n## D\nlist:\n\n```\n# no heading\n```\n"
    assert [(h, t.strip()) for h, t in sections(text)] == [("# A", ""), ("## B", "text:"), ("## C", ""), ("## D", "list:\n\n(code)")]


# The order of the chapters has one home, the table in CONTRIBUTING.md.
CHAPTERS = re.findall(r"^\| `(\d\d\w+)` \|", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M)
EXPORTING = {m[1]: p.stem for p in NOTEBOOKS for c in cells(p) if (m := re.search(r"^#\|\s*default_exp\s+(\w+)", c["source"], re.M))}  # by module


def test_every_chapter_has_its_line_in_contributing():
    assert sorted(EXPORTING.values()) == CHAPTERS  # the order of the files, which readers and nbdev's sidebar follow
    others = {*CHAPTERS, "index", "20_table1", "22_four_hundred_factors", "23_experiments"}
    assert {p.parent.name for p in NOTEBOOKS if p.stem not in others} == {"explanations", "tutorials"}


@pytest.mark.parametrize("module", list(EXPORTING))
def test_modules_import_only_what_stands_above_them(module):
    order = [module for chapter in CHAPTERS for module, home in EXPORTING.items() if home == chapter]
    assert module in order, f"{EXPORTING[module]} has no line in CONTRIBUTING.md"
    above = order[:order.index(module)]
    text = (ROOT / "deepmr" / f"{module}.py").read_text()
    used = set(re.findall(r"(?:from|import) (?:deepmr)?\.(\w+)", text)) | set(re.findall(r"from (?:deepmr|\.) import (\w+)", text))
    assert used.isdisjoint(set(EXPORTING) - set(above)), f"{module} imports {sorted(used & set(EXPORTING) - set(above))}"


@pytest.mark.parametrize("notebook", [p for p in NOTEBOOKS if p.stem in EXPORTING.values()], ids=lambda p: p.stem)
def test_exported_cells_are_short_and_few_in_a_row(notebook):
    "At most 40 lines, and at most six without an example, a figure or a check between them. A cell of imports alone may be longer."
    code = [c for c in cells(notebook) if c["cell_type"] == "code"]
    for cell in filter(exported, code):
        lines = [line for line in cell["source"].splitlines() if not line.startswith("#|")]
        assert len(lines) <= 40 or all(re.match(r"(from|import|if TYPE_CHECKING|[ )]|$)", line) for line in lines), "\n".join(lines[:3])
    longest = max(len(list(run)) if is_export else 0 for is_export, run in groupby(code, exported))
    assert longest <= 6, f"{longest} exported cells in a row"
