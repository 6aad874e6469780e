"""Keep what the chapters show of a run: `python tools/store_table1.py RUN RESULTS [WINDOW ...]`; effects of the named windows only."""
import shutil
import sys
from pathlib import Path

import pandas as pd

from deepmr.answer import PROTOCOLS
from deepmr.experiment import protocol_of
from deepmr.rundir import file_stem, read_record
from deepmr.tables import direct_effects, directions, effect_matrix, table1


def compact(frame: pd.DataFrame) -> pd.DataFrame:
    "Numbers in single precision, names as categories: a tenth of the size."
    return frame.astype({c: "float32" if frame[c].dtype == float else "category" for c in frame})


def main(run: str, results: str, *windows: str) -> None:
    folder, stored = Path(run), Path(results)
    shutil.rmtree(stored, ignore_errors=True)
    (stored / "effects").mkdir(parents=True)
    names = ["run.json", "windows.bed"]
    if protocol_of(read_record(folder)["experiment"]).shipped:
        names += ["table1.csv", "direct_effects.csv", "local_effects.parquet"]
    else:
        for protocol in PROTOCOLS.values():
            if not protocol.shipped:
                table1(folder, protocol.name).to_csv(stored / f"table1_{protocol.name}.csv", index=False)
        directions(folder).to_csv(stored / "directions.csv", index=False)
        compact(direct_effects(folder)).to_parquet(stored / "direct_effects.parquet", index=False)
        names += ["local_effects.parquet"]
    effect_matrix(folder).to_csv(stored / "effect_matrix.csv", index=False)
    for name in names:
        shutil.copy(folder / name, stored / name)
    for window in windows:
        shutil.copy(folder / "effects" / f"{file_stem(window)}.nc", stored / "effects")


if __name__ == "__main__":
    main(*sys.argv[1:])
