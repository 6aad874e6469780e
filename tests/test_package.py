"""The package from outside: it starts fast, every public name is explained, and every reference leads somewhere."""
import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import links

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(p.stem for p in (ROOT / "deepmr").glob("[a-z]*.py"))
HEAVY = ("torch", "kipoi", "matplotlib", "seaborn", "scipy", "xarray", "pandas")


@pytest.mark.parametrize("start, limit", [("import deepmr", 0.2), ("import deepmr.cli as c; c.app(['--help'], standalone_mode=False)", 2)],
                         ids=["import", "help"])
def test_a_start_is_fast_and_loads_nothing_heavy(start, limit):
    code = f"{start}; import sys, time; print('loaded', [m for m in {HEAVY} if m in sys.modules], time.process_time())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded, seconds = re.search(r"loaded (\[.*\]) (.*)", done.stdout).groups()
    assert loaded == "[]" and float(seconds) < limit  # the processor's time: a busy machine may be slow


def public(module: str) -> dict:
    "Functions and classes that a module exports, and the public methods of its classes, by name."
    of = importlib.import_module(f"deepmr.{module}")
    named = {n: getattr(of, n) for n in of.__all__ if inspect.isroutine(getattr(of, n)) or inspect.isclass(getattr(of, n))}
    named = {n: o for n, o in named.items() if o.__module__ == of.__name__}
    for owner, kind in [(n, o) for n, o in named.items() if inspect.isclass(o)]:
        named |= {f"{owner}.{n}": getattr(o, "fget", o) for n, o in vars(kind).items()
                  if n[0] != "_" and (inspect.isfunction(o) or isinstance(o, property)) and n != "forward"  # which is torch's
                  and n not in getattr(kind, "__dataclass_fields__", ())}
    return named


def test_no_name_is_public_twice_and_the_surface_can_be_surveyed():
    homes: dict[str, list[str]] = {}
    for module in MODULES:
        for name in importlib.import_module(f"deepmr.{module}").__all__:
            homes.setdefault(name, []).append(module)
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}
    assert len(homes) <= 190


def test_what_one_begins_with_is_found_in_the_package_itself():
    import deepmr
    assert {"load_model", "adapt", "Genome", "read_regions", "one_hot", "mutation_effects", "ivw", "egger", "random_effects", "Experiment", "run",
            "table1"} <= set(deepmr.__all__) <= set(dir(deepmr))
    for name in deepmr.__all__:
        home = importlib.import_module(getattr(deepmr, name).__module__)
        assert name in home.__all__ and getattr(home, name) is getattr(deepmr, name)
    with pytest.raises(AttributeError, match="no_such_name"):
        deepmr.no_such_name  # noqa: B018


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_a_docstring(module):
    without = [n for n, o in public(module).items() if not (inspect.getdoc(o) or "").strip()]
    assert not without, f"no docstring: {without}"


@pytest.mark.parametrize("file", sorted((ROOT / "tests").glob("*.py")), ids=lambda p: p.stem)
def test_tests_import_public_names_only(file):
    found = [(node.module.removeprefix("deepmr."), alias.name) for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
             if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("deepmr.") for alias in node.names]
    private = [f"{module}.{name}" for module, name in found if name not in importlib.import_module(f"deepmr.{module}").__all__]
    assert not private


def raisers(module: str) -> set[str]:
    "Functions of a module that raise InputError, themselves or through the module's private functions."
    tree = ast.parse((ROOT / "deepmr" / f"{module}.py").read_text(encoding="utf-8"))
    calls, found = {}, set()
    for f in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        inside = list(ast.walk(f))
        if any(isinstance(n, ast.Raise) and n.exc is not None and "InputError(" in ast.unparse(n.exc) for n in inside):
            found.add(f.name)
        calls[f.name] = {n.func.id for n in inside if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    while more := {f for f, called in calls.items() if f not in found and any(c in found and c.startswith("_") for c in called)}:
        found |= more
    return found


@pytest.mark.parametrize("module", [m for m in MODULES if m != "cli"])  # whose functions turn it into a sentence
def test_who_raises_input_error_says_so(module):
    raising = raisers(module)
    silent = [n for n, o in public(module).items() if inspect.isfunction(o) and n.split(".")[-1] in raising
              and "InputError" not in (inspect.getdoc(o) or "")]
    assert not silent, f"InputError is not in the docstring of {silent}"


@pytest.mark.parametrize("page", links.pages(), ids=lambda p: p.stem)
def test_every_reference_leads_somewhere(page):
    assert not links.broken(page) and not links.unknown_chapters(page)


def test_the_link_check_finds_what_is_broken(tmp_path):
    page, other = tmp_path / "a.md", tmp_path / "b.md"
    page.write_text("# One title\n[self](#one-title) [bad](#two) [gone](c.md) [there](b.md#x-y) [not](b.md#z) [out](https://example.org)")
    other.write_text("## X y\n")
    assert links.broken(page) == ["#two", "c.md", "b.md#z"]
    page.write_text("`06_mr` and `06_rm`, not `06 mr`")
    assert links.unknown_chapters(page) == ["06_rm"]
