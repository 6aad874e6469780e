"""Make the tables of the other cell lines anew: `python tools/store_cells.py [DATA [RESULTS [WINDOWS]]]`, about ten minutes a cell line on two cores.

For each cell line of the default model but its own, with the commands that a user would type: the windows that the model has not seen, decoys
from the cell's open chromatin, and the default table. DATA is a directory as `deepmr train` takes it. Kept are the table and the command.
"""
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from deepmr.regions import write_windows
from deepmr.training_data import labelled_windows, load_data

CELLS = ("K562", "GM12878", "HeLa-S3")


def training_windows(data_at: Path, cell: str, path: Path) -> None:
    "Write the training windows that are open in the cell, and as many others."
    data, rng = load_data(data_at, cell), np.random.default_rng(0)
    rows = data.rows("train")
    opened = data.y[rows, data.labels.index(f"{cell}_DNase_None")]
    chosen = np.sort(np.r_[rows[opened], rng.choice(rows[~opened], opened.sum(), replace=False)])
    write_windows(labelled_windows(data, chosen), path)


def deepmr(*options: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "deepmr.cli", *map(str, options)], check=True, stdout=subprocess.DEVNULL)


def main(data: str = "../shared/hg19", results: str = "results/cells", windows: str = "10") -> None:
    directory, stored = Path(data), Path(results)
    genome, tracks = next(directory.glob("*.fa.gz")), pd.read_csv(directory / "tracks.tsv", sep="\t")
    shutil.rmtree(stored, ignore_errors=True)
    stored.mkdir(parents=True)
    for cell in CELLS:
        with tempfile.TemporaryDirectory() as made:
            work, outcome = Path(made), f"{cell}_DNase_None"
            opened = tracks.file[(tracks.cell == cell) & (tracks.target == "DNase")].iloc[0]
            training_windows(directory, cell, work / "training.bed")
            deepmr("decoys", "--regions", work / "training.bed", "--open", directory / opened, "--genome", genome,
                   "--outcome", outcome, "--out", work / "decoys.safetensors")
            deepmr("windows", "--data", directory, "--cell", cell, "--out", work / "windows.bed")
            deepmr("table1", "--outcome", outcome, "--regions", work / "windows.bed", "--genome", genome, "--decoys", work / "decoys.safetensors",
                   "--windows", windows, "--out", work / "run")
            shutil.copy(work / "run" / "table1.csv", stored / f"{cell}.csv")
            record = json.loads((work / "run" / "run.json").read_text())
            command = re.sub(r"\S*/", "", record["command"].replace("--out " + str(work / "run"), "--out DIR"))
            kept = {"command": command, "model_sha256": record["model_sha256"], "versions": record["versions"]}
            (stored / f"{cell}.json").write_text(json.dumps(kept, indent=1) + "\n")
        print(f"{cell}: {stored / cell}.csv", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
