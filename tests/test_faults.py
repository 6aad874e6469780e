"""What is wrong with an input gets one sentence and exit code 2 (in Python InputError), as `faults.csv` has it, and runs no code."""
import csv

import pytest

import faults

with open(faults.TABLE, newline="", encoding="utf-8") as f:
    ROWS = [(r["input"], r["fault"], r["exit"], r["says"]) for r in csv.DictReader(f)]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DEEPMR_CACHE", str(folder / "cache"))
        faults.prepare(folder)
    return folder


@pytest.mark.parametrize("of, what, code, says", ROWS, ids=[f"{r[0]}: {r[1]}" for r in ROWS])
def test_fault(good, tmp_path, of, what, code, says):
    assert faults.survey(good, of, what, tmp_path / "here", tmp_path / "cache") == f"{code} {says}"


def test_every_fault_has_a_row_and_every_refusal_is_a_sentence():
    assert [row[:2] for row in ROWS] == list(faults.FAULTS)
    assert {row[2] for row in ROWS} == {"0", "none", "2", "InputError"} and all(row[3] for row in ROWS)
