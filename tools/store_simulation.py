"""Add rounds of `deepmr simulate` to those that are stored: `python tools/store_simulation.py RESULTS RUN [RUN ...]`.

RESULTS gets `rounds.csv.gz` (six digits), `calibration.csv` (of exactly these rounds) and `simulation.json` (recipe, seed, options, and
the command that makes the same rounds). A round that is there already is replaced. Runs of another recipe, seed or options are refused.
"""
import gzip
import json
import platform
import sys
from pathlib import Path

import pandas as pd
import torch

from deepmr.calibration import ESTIMANDS, RECIPE, ROUNDS, calibration, read_rounds
from deepmr.core import InputError, write_file

KEY = ["scenario", "round"]


def read(run: Path) -> pd.DataFrame:
    "The records of all rounds of a run that are whole."
    return pd.DataFrame([row for path in sorted((run / "rounds").glob("*.json")) for row in json.loads(path.read_text())])


def merged(stored: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    "Both, in the order of scenarios and rounds; rounds of `new` take the place of those of the same name."
    there = pd.MultiIndex.from_frame(stored[KEY]).isin(pd.MultiIndex.from_frame(new[KEY])) if len(stored) else []
    both = pd.concat([f for f in (stored[[not t for t in there]] if len(stored) else stored, new) if len(f)], ignore_index=True)
    order = {scenario: i for i, scenario in enumerate({**ROUNDS, **ESTIMANDS})}
    return both.sort_values(KEY, key=lambda c: c.map(order) if c.name == "scenario" else c, kind="stable", ignore_index=True)


def main(results: str, *runs: str) -> None:
    folder = Path(results)
    about, path = folder / "simulation.json", folder / "rounds.csv.gz"
    old = json.loads(about.read_text()) if about.exists() and path.exists() else {}
    what = [json.loads((Path(run) / "simulation.json").read_text()) for run in runs]
    what += [{k: old[k] for k in what[0]}] if old else []
    recipe = RECIPE[what[0]["options"].get("ask", "protocols")]
    if any(w != what[0] | {"recipe": recipe} for w in what):
        raise InputError(f"runs: found rounds of {'; '.join(map(str, what))}, expected one seed and options, and recipe {recipe}")
    frame = read_rounds(path) if old else pd.DataFrame()
    for run in runs:
        frame = merged(frame, read(Path(run)))
    folder.mkdir(parents=True, exist_ok=True)
    write_file(path, gzip.compress(frame.to_csv(index=False, float_format="%.6g").encode(), mtime=0))
    stored = read_rounds(path)
    write_file(folder / "calibration.csv", calibration(stored).to_csv(index=False, float_format="%.6g"))
    rounds = {str(s): sorted(map(int, r.unique())) for s, r in stored.groupby("scenario", sort=False)["round"]}
    ask = f"--ask {what[0]['options']['ask']} " if "ask" in what[0]["options"] else ""
    commands = [f"deepmr simulate {ask}--scenario '{s}' --start {r[0]} --rounds {r[-1] + 1} --seed {what[0]['seed']}" for s, r in rounds.items()]
    write_file(about, json.dumps(what[0] | {
        "commands": commands, "rounds": {s: len(r) for s, r in rounds.items()}, "python": platform.python_version(),
        "torch": torch.__version__}, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
