"""Notebooks run top to bottom, are clean, and match the exported package; metadata has one home."""
import configparser
import filecmp
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from nbdev.test import test_nb as run_notebook

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
NBDEV = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["nbdev"]


def cells(path):
    return json.loads(path.read_text())["cells"]


@pytest.mark.filterwarnings("ignore:model .* computed in full")  # a warning that some notebooks show
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(notebook, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    passed, _ = run_notebook(notebook, skip_flags=NBDEV["tst_flags"].split(), basepath=ROOT)
    assert passed


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_saved_outputs_hold_no_error_and_no_path_of_a_machine(notebook):
    for cell in cells(notebook):
        assert not [o for o in cell.get("outputs", []) if o["output_type"] == "error"], "".join(cell["source"])[:200]
        for output in cell.get("outputs", []):
            text = json.dumps({k: v for k, v in output.get("data", output).items() if not k.startswith("image/")})
            assert not re.search(r"/(home|root|Users|work|tmp)/", text), text[:300]


def test_export_and_clean_are_up_to_date(tmp_path):
    work = tmp_path / ROOT.name
    keep = ("nbs", "deepmr", "pyproject.toml", "settings.ini", "README.md", "setup.py")
    work.mkdir()
    for name in keep:
        source = ROOT / name
        shutil.copytree(source, work / name) if source.is_dir() else shutil.copy(source, work / name)
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
    copy = tmp_path / "deepmr"
    for folder in ("nbs", "tools"):
        shutil.copytree(ROOT / folder, copy / folder)
    subprocess.run(["python", str(copy / "tools" / "make_readme.py")], check=True)
    assert (copy / "README.md").read_text() == (ROOT / "README.md").read_text(), "run make readme"


def test_modules_import_only_what_stands_above_them():
    order = ["core", "notes", "regions", "models", "mutagenesis", "dropout", "propagate", "effects", "mr", "meta", "pipeline", "plots",
             "report", "worlds", "loci", "calibration", "training", "experiments", "cli"]  # the command line starts everything
    for i, name in enumerate(order):
        path = ROOT / "deepmr" / f"{name}.py"
        if path.exists():
            used = set(re.findall(r"from deepmr\.(\w+) import", path.read_text()))
            used |= set(re.findall(r"from \.(\w+) import", path.read_text()))
            assert used <= set(order[:i]), f"{name} imports {sorted(used - set(order[:i]))}"
