"""Keep what the chapters show of a run: `python tools/store_table1.py RUN RESULTS [WINDOW ...]`; effects of the named windows only."""
import shutil
import sys
from pathlib import Path

import pandas as pd

from deepmr.experiment import PROTOCOLS
from deepmr.rundir import file_stem
from deepmr.tables import direct_effects, directions, effect_matrix, table1


def compact(frame: pd.DataFrame) -> pd.DataFrame:
    "Numbers in single precision, names as categories: a tenth of the size."
    return frame.astype({c: "float32" if frame[c].dtype == float else "category" for c in frame})


def main(run: str, results: str, *windows: str) -> None:
    folder, stored = Path(run), Path(results)
    shutil.rmtree(stored, ignore_errors=True)
    (stored / "effects").mkdir(parents=True)
    for protocol in PROTOCOLS:
        table1(folder, protocol).to_csv(stored / f"table1_{protocol}.csv", index=False)
    directions(folder).to_csv(stored / "directions.csv", index=False)
    effect_matrix(folder).to_csv(stored / "effect_matrix.csv", index=False)
    compact(direct_effects(folder)).to_parquet(stored / "direct_effects.parquet", index=False)
    for name in ("run.json", "local_effects.parquet", "windows.bed"):
        shutil.copy(folder / name, stored / name)
    for window in windows:
        shutil.copy(folder / "effects" / f"{file_stem(window)}.nc", stored / "effects")


if __name__ == "__main__":
    main(*sys.argv[1:])
