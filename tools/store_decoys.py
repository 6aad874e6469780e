"""Decoys of the default model, and many more, fitted afterwards: `python tools/store_decoys.py DATA OUT [SEED]`.

DATA is a directory as `deepmr train` takes it, with the peaks of HepG2. `hepg2-single` is asked: the decoys that it was trained with, 240 more
that are fitted on its trunk in its training windows, and the factors of Table 1, on log-odds and with its dropout off, in open test windows, in
dinucleotide shuffles of these, and in test windows that a factor binds. OUT gets `decoys.csv`, a row for each decoy, and `decoy_slopes.csv.gz`,
a row for each window and a column for each label.
"""
import gzip
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from deepmr.controls import decoy_labels, fit_decoys, is_decoy, shuffled
from deepmr.core import write_file
from deepmr.draws_mr import draw_slopes
from deepmr.effects import make_engine
from deepmr.models import load_model
from deepmr.mutagenesis import saturate
from deepmr.networks import SequenceModel
from deepmr.regions import sample_bound, window_name
from deepmr.scale import logit_model
from deepmr.training_data import TrainingData, load_data

OUTCOME, FITTED = "HepG2_DNase_None", 240
BOUND = ("HepG2_CTCF_None", "HepG2_HNF4A_None", "HepG2_Max_None")


def training_rows(data: TrainingData, seed: int, closed: int = 2) -> np.ndarray:
    "Open training windows and `closed` times as many closed ones, on chromosomes where every label of the cell is known."
    focus, is_open = np.flatnonzero(data.focus), data.y[:, data.labels.index(OUTCOME)]
    rows = data.rows("train")
    rows = rows[data.known[rows][:, focus].all(1)]
    some = np.random.default_rng(seed).choice(rows[~is_open[rows]], closed * is_open[rows].sum(), replace=False)
    return np.sort(np.r_[rows[is_open[rows]], some])


def with_fitted(model: SequenceModel, data: TrainingData, seed: int) -> tuple[SequenceModel, pd.DataFrame]:
    "The model with further decoys, and their numbers of windows and GC content."
    rows = training_rows(data, seed)
    x, factors = data.batch(rows).numpy(), [k for k in np.flatnonzero(data.focus) if data.labels[k] != OUTCOME]
    gc = x[:, 1:3].sum((1, 2)) / x.shape[2]
    decoys = decoy_labels(data.y[rows, data.labels.index(OUTCOME)], data.y[rows][:, factors], gc, FITTED, seed)
    wider = fit_decoys(model, x, decoys, "Fitted")
    return wider, pd.DataFrame({"decoy": wider.labels[-FITTED:], "windows": decoys.sum(0), "gc": [gc[d].mean() for d in decoys.T]})


def asked_windows(data: TrainingData, label: str, n: int, seed: int) -> tuple[list[str], np.ndarray]:
    "Names and one-hot sequence (n, 4, L) of test windows with a label that do not overlap."
    rows = data.rows("test")
    windows = data.windows.iloc[rows].reset_index(drop=True)
    windows["name"] = [window_name(*w) for w in windows[["chrom", "start", "end"]].itertuples(index=False)]
    names = list(sample_bound(windows, data.y[rows, data.labels.index(label)], n, seed).name)
    return names, data.batch(pd.Series(rows, windows.name).loc[names].to_numpy()).numpy()


def slopes(model: SequenceModel, x: np.ndarray, labels: list[str]) -> np.ndarray:
    "Slopes (N, O) of the outcome on each label over the mutations of each window."
    engine, out = make_engine(model, [model.index(label) for label in (*labels, OUTCOME)]), []
    for window in x:
        effects = engine.draw(torch.as_tensor(window), saturate(window), {})[1].double().numpy()
        out.append(draw_slopes(effects[:, :-1].T, effects[:, -1]))
    return np.array(out)


def main(directory: str, out: str, seed: str = "0") -> None:
    torch.set_num_threads(1)
    data, recipe = load_data(directory), tomllib.loads((Path(__file__).parents[1] / "experiments" / "table1.toml").read_text())
    wider, table = with_fitted(load_model("hepg2-single"), data, int(seed))
    labels, logits, frames = [*filter(is_decoy, wider.labels), *recipe["exposures"]], logit_model(wider), []
    for what, n in ((OUTCOME, 60), *((label, 25) for label in BOUND)):
        names, x = asked_windows(data, what, n, int(seed))
        places = {what: x} | ({"shuffled": shuffled(x, int(seed))} if what == OUTCOME else {})
        frames += [pd.DataFrame(slopes(logits, z, labels), columns=labels).assign(place=place, window=names) for place, z in places.items()]
    frame = pd.concat(frames).set_index(["place", "window"])
    trained = pd.DataFrame({"decoy": [label for label in labels if is_decoy(label) and label not in set(table.decoy)]})
    head = f"# python tools/store_decoys.py ../shared/hg19 nbs/data {seed}\n"
    write_file(Path(out) / "decoys.csv", head + pd.concat([trained, table]).to_csv(index=False, float_format="%.4f"))
    write_file(Path(out) / "decoy_slopes.csv.gz", gzip.compress((head + frame.to_csv(float_format="%.4g")).encode(), mtime=0))


if __name__ == "__main__":
    main(*sys.argv[1:])
