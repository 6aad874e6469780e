"""Slopes of a model's held-out windows, for the coverage of the interval over windows: `python tools/store_slopes.py GENOME RESULTS [MODEL]`.

RESULTS gets `slopes.csv.gz` (exposure, window, slope: the log-odds slope over all mutations on DNase, dropout off, six digits) and
`slopes.json` (what made it). The windows of an exposure are those the package ships, bound by it, and do not overlap.
"""
import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from deepmr.core import write_file
from deepmr.draws_mr import draw_slopes
from deepmr.models import load_model
from deepmr.mutagenesis import saturate
from deepmr.propagate import Propagator
from deepmr.regions import Genome, one_hot, read_windows, sample_bound
from deepmr.scale import logit_model

OUTCOME, SEED = "HepG2_DNase_None", 0


def main(genome: str, results: str, name: str = "hepg2") -> None:
    torch.set_num_threads(1)
    model, windows, fasta = load_model(name), read_windows(), Genome(genome)
    exposures = [label for label in dict.fromkeys(x for row in windows.labels for x in row) if label in model.labels and label != OUTCOME]
    chosen = {e: sample_bound(windows, [e in row for row in windows.labels], len(windows), SEED).name.tolist() for e in sorted(exposures)}
    bare = logit_model(model)
    engine, rows = Propagator(bare, [bare.index(e) for e in (*chosen, OUTCOME)]), []
    for w in windows[windows.name.isin(set(sum(chosen.values(), [])))].itertuples():
        x = one_hot(fasta.fetch(w.chrom, w.start, w.end))[0]
        effects = engine.draw(torch.tensor(x), saturate(x), {})[1].double().numpy()
        slopes = draw_slopes(effects[:, :-1].T, effects[:, -1])
        rows += [{"exposure": e, "window": w.name, "slope": s} for e, s in zip(chosen, slopes) if w.name in chosen[e]]
    frame = pd.DataFrame(rows).sort_values("exposure", kind="stable")
    assert np.isfinite(frame.slope).all()
    Path(results).mkdir(parents=True, exist_ok=True)
    write_file(Path(results) / "slopes.csv.gz", gzip.compress(frame.to_csv(index=False, float_format="%.6g").encode(), mtime=0))
    about = {"command": f"python tools/store_slopes.py {Path(genome).name} {results} {name}", "model": model.digest if hasattr(model, "digest") else name,
             "outcome": OUTCOME, "seed": SEED, "windows": {e: len(v) for e, v in chosen.items()}, "torch": torch.__version__}
    write_file(Path(results) / "slopes.json", json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
