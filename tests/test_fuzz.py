"""A few cases of every target of `fuzz.py`, the same in every run."""
import pytest

import fuzz


@pytest.mark.parametrize("name", list(fuzz.TARGETS))
def test_answers_or_says_what_is_wrong(name, tmp_path):
    fuzz.prepare(tmp_path)
    ended = fuzz.fuzz(name, 4 if name in fuzz.SLOW else 40)
    assert ended["InputError"] + ended["answers"] >= 4
