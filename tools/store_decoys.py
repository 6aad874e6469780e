"""Decoys of the default model and their slopes: `python tools/store_decoys.py DATA OUT [SEED]`.

DATA is a directory as `deepmr train` takes it, with the peaks of HepG2. `deepmr decoys` fits in training windows. Decoys and factors are asked
in 60 open test windows, and in dinucleotide shuffles of these, with the weights as shipped and on log-odds. OUT gets `decoys.csv` and
`decoy_slopes.csv`.
"""
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open

from deepmr.cli import decoys as decoys_command
from deepmr.controls import attach_decoys, shuffled
from deepmr.effects import make_engine
from deepmr.models import load_model
from deepmr.mutagenesis import saturate
from deepmr.networks import SequenceModel
from deepmr.regions import ALPHABET, sample_bound, sequence_digest, window_name, write_windows
from deepmr.scale import logit_model
from deepmr.training_data import TrainingData, load_data

OUTCOME = "HepG2_DNase_None"


def training_windows(data: TrainingData, seed: int, closed: int = 2) -> pd.DataFrame:
    "Open training windows and `closed` times as many closed ones, on chromosomes where every label of the cell is known."
    focus, is_open = np.flatnonzero(data.focus), data.y[:, data.labels.index(OUTCOME)]
    rows = data.rows("train")
    rows = rows[data.known[rows][:, focus].all(1)]
    some = np.random.default_rng(seed).choice(rows[~is_open[rows]], closed * is_open[rows].sum(), replace=False)
    rows = np.sort(np.r_[rows[is_open[rows]], some])
    windows, letters = data.windows.iloc[rows].reset_index(drop=True), np.array(list(ALPHABET))
    sequences = ["".join(letters[data.codes[at:at + data.length]]) for at in data.offset[rows]]
    return windows.assign(name=[window_name(*w) for w in windows[["chrom", "start", "end"]].itertuples(index=False)],
                          labels=[tuple(data.labels[k] for k in focus if data.y[row, k]) or (".",) for row in rows],
                          digest=[sequence_digest(s) for s in sequences])


def asked_windows(data: TrainingData, seed: int, n: int = 60) -> tuple[list[str], np.ndarray]:
    "Names and one-hot sequence (n, 4, L) of open test windows that do not overlap."
    rows = data.rows("test")
    windows = data.windows.iloc[rows].reset_index(drop=True)
    windows["name"] = [window_name(*w) for w in windows[["chrom", "start", "end"]].itertuples(index=False)]
    names = list(sample_bound(windows, data.y[rows, data.labels.index(OUTCOME)], n, seed).name)
    at = pd.Series(rows, windows.name).loc[names].to_numpy()
    return names, data.batch(at).numpy()


def slopes(model: SequenceModel, x: np.ndarray, columns: list[int]) -> np.ndarray:
    "Slope of the last of some outputs on each of the others over the mutations of each window: sum of bx by over sum of bx squared, (N, O - 1)."
    engine, out = make_engine(model, columns), []
    for window in x:
        _, effects = engine.draw(torch.as_tensor(window), saturate(window), {})
        e = effects.double().numpy()
        out.append((e[:, :-1] * e[:, -1:]).sum(0) / (e[:, :-1] ** 2).sum(0))
    return np.array(out)


def main(directory: str, out: str, seed: str = "0") -> None:
    torch.set_num_threads(1)
    data, model = load_data(directory), load_model("hepg2")
    with tempfile.TemporaryDirectory() as folder:
        regions, file = f"{folder}/training.bed", f"{folder}/decoys.safetensors"
        write_windows(training_windows(data, int(seed)), regions)
        genome, = Path(directory).glob("*.fa.gz")
        decoys_command(regions=regions, openness=f"{directory}/peaks/HepG2/DNase.narrowPeak.gz", genome=str(genome), seed=int(seed), out=file)
        wider = attach_decoys(model, file)
        with safe_open(file, "pt") as f:
            about = json.loads(f.metadata()["decoys"])
    table = pd.DataFrame(about["table"]).set_index("decoy").assign(penalty=about["penalty"][0]).reset_index()
    labels = [label for label in wider.labels if label.startswith("HepG2_") and label != OUTCOME]
    columns = [wider.index(label) for label in (*labels, OUTCOME)]
    logits, (names, x) = logit_model(wider), asked_windows(data, int(seed))
    found = [slopes(logits, windows, columns) for windows in (x, shuffled(x, int(seed)))]
    frame = pd.DataFrame({"window": np.repeat(names, len(labels)), "label": labels * len(names),
                          "slope": found[0].ravel(), "shuffled": found[1].ravel()})
    head = f"# python tools/store_decoys.py ../shared/hg19 nbs/data {seed}\n"
    (Path(out) / "decoys.csv").write_text(head + table.to_csv(index=False, float_format="%.4f"))
    (Path(out) / "decoy_slopes.csv").write_text(head + frame.to_csv(index=False, float_format="%.5f"))


if __name__ == "__main__":
    main(*sys.argv[1:])
