"""How often the interval over windows holds, for a model's held-out windows: `python tools/store_slopes.py GENOME RESULTS [MODEL]`.

RESULTS gets `slopes.csv.gz` (exposure, window, slope: the log-odds slope over all mutations on DNase, dropout off, six digits),
`coverage.csv` (samples of 25 of each exposure's windows, drawn with replacement) and `slopes.json` (what made them). The windows of an
exposure are those of the package in which it is bound and that do not overlap. With `-` for GENOME the slopes there are kept.
"""
import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from deepmr.calibration import resampled_coverage
from deepmr.core import write_file
from deepmr.draws_mr import draw_slopes
from deepmr.meta import pooled_skewness
from deepmr.models import load_model
from deepmr.mutagenesis import saturate
from deepmr.propagate import Propagator
from deepmr.regions import Genome, one_hot, read_windows, sample_bound
from deepmr.scale import logit_model

OUTCOME, SEED, N, RESAMPLES = "HepG2_DNase_None", 0, 25, 10_000


def measured(genome: str, name: str) -> pd.DataFrame:
    "The slopes of every exposure in its windows."
    torch.set_num_threads(1)
    model, windows, fasta = load_model(name), read_windows(), Genome(genome)
    exposures = sorted({label for row in windows.labels for label in row} & set(model.labels) - {OUTCOME})
    chosen = {e: set(sample_bound(windows, [e in row for row in windows.labels], len(windows), SEED).name) for e in exposures}
    bare = logit_model(model)
    engine, rows = Propagator(bare, [bare.index(e) for e in (*chosen, OUTCOME)]), []
    for w in windows[windows.name.isin(set.union(*chosen.values()))].itertuples():
        x = one_hot(fasta.fetch(w.chrom, w.start, w.end))[0]
        effects = engine.draw(torch.tensor(x), saturate(x), {})[1].double().numpy()
        slopes = draw_slopes(effects[:, :-1].T, effects[:, -1])
        rows += [{"exposure": e, "window": w.name, "slope": s} for e, s in zip(chosen, slopes) if w.name in chosen[e]]
    return pd.DataFrame(rows).sort_values("exposure", kind="stable")


def bootstrap_t(slopes: np.ndarray, resamples: int = 1000, replicates: int = 600) -> float:
    "Coverage of the equal-tailed bootstrap-t interval."
    rng, held = np.random.default_rng(SEED), 0
    for x in slopes[rng.integers(0, len(slopes), (resamples, N))]:
        again = x[rng.integers(0, N, (replicates, N))]
        t = (again.mean(1) - x.mean()) / np.maximum(again.std(1, ddof=1), 1e-12)
        held += np.quantile(t, 0.025) <= (x.mean() - slopes.mean()) / x.std(ddof=1) <= np.quantile(t, 0.975)
    return held / resamples


def main(genome: str, results: str, name: str = "hepg2") -> None:
    folder = Path(results)
    folder.mkdir(parents=True, exist_ok=True)
    if genome != "-":
        write_file(folder / "slopes.csv.gz", gzip.compress(measured(genome, name).to_csv(index=False, float_format="%.6g").encode(), mtime=0))
    slopes = {e: f.slope.to_numpy() for e, f in pd.read_csv(folder / "slopes.csv.gz").groupby("exposure")}
    rows = []
    for e, y in slopes.items():
        shared = pooled_skewness(v for other, v in slopes.items() if other != e)
        rows.append({"exposure": e, "windows": len(y), "mean": y.mean(), "sd": y.std(ddof=1), "skewness": pooled_skewness([y]), "of_others": shared,
                     "t": resampled_coverage(y, N, RESAMPLES, SEED), "bootstrap_t": bootstrap_t(y),
                     "shared_skewness": resampled_coverage(y, N, RESAMPLES, SEED, shared)})
    write_file(folder / "coverage.csv", pd.DataFrame(rows).to_csv(index=False, float_format="%.4g"))
    about = {"command": f"python tools/store_slopes.py ../shared/hg19/hg19_segments.fa.gz results/coverage {name}", "outcome": OUTCOME, "seed": SEED,
             "windows": N, "resamples": RESAMPLES, "of bootstrap-t": 1000, "torch": torch.__version__}
    write_file(folder / "slopes.json", json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
