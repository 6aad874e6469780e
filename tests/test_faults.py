"""Wrong input ends with one sentence and exit code 2 (in Python with InputError), and runs no code. `faults.csv` says which fault gets what."""
import csv
import re

import pytest

import faults

with open(faults.TABLE, newline="", encoding="utf-8") as f:
    ROWS = list(csv.DictReader(f))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DEEPMR_CACHE", str(folder / "cache"))
        faults.prepare(folder)
    return folder


@pytest.mark.parametrize("row", ROWS, ids=[f"{r['input']}: {r['fault']}" for r in ROWS])
def test_fault(good, tmp_path, row):
    found = faults.survey(good, row["input"], row["fault"], tmp_path / "here", tmp_path / "cache")
    assert (found.exit, found.argument, found.kind) == (row["exit"], row["argument"], row["kind"]), found.says
    assert ours(found.says) == ours(row["says"]), "after a change of wording: make faults"
    assert all(name in found.says for name in row["names"].split(" | ") if name), (row["names"], found.says)
    assert found.kind.startswith("accepted") or is_one_sentence(found.says), found.says


def ours(says: str) -> str:
    "The sentence without what a library says in brackets, which its next version may say otherwise."
    return re.sub(r" \([^()]*\)", "", says)


def is_one_sentence(says: str) -> bool:
    "Whether a refusal is one line of the house's form, `argument: found A, expected B; remedy`, or a complaint of the command line itself."
    usage = re.match("Invalid value for|Missing |Option |No such ", says)
    return "\n" not in says and "Traceback" not in says and bool(usage or re.match(r"[^:]+(:[^ ][^:]*)*: .*[^.]$", says))


def test_every_fault_has_a_row_and_every_refusal_a_kind():
    assert [(r["input"], r["fault"]) for r in ROWS] == list(faults.FAULTS)
    assert {r["exit"] for r in ROWS} == {"0", "none", "2", "InputError"}
    assert {r["kind"] for r in ROWS} == {*faults.KINDS, "accepted", "accepted with a word"}
    assert all(bool(r["argument"]) == (r["exit"] in ("2", "InputError")) for r in ROWS)
