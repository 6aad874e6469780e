"""How often the interval over windows holds, for a model's held-out windows: `python tools/store_slopes.py RESULTS [MODEL [PROCESSES]]`.

RESULTS gets `slopes.csv.gz` (exposure, window, slope: the log-odds slope over all mutations on DNase, dropout off, six digits; of several
members their mean), `coverage.csv` (samples of 25 of each exposure's windows, drawn with replacement) and `slopes.json` (what made them). The
exposures are those of experiments/table1.toml, and their windows those of the package in which they are bound and that do not overlap. With `-`
for MODEL the slopes there are kept. A window takes a fifth of a second for each network, on one core. PROCESSES change no number.
"""
import gzip
import json
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
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
from deepmr.networks import Ensemble
from deepmr.propagate import Propagator
from deepmr.regions import one_hot, read_windows, sample_bound, shipped_bases
from deepmr.scale import logit_model

OUTCOME, SEED, N, RESAMPLES = "HepG2_DNase_None", 0, 25, 10_000


def slopes_of(name: str, exposures: list[str], places: list[tuple[str, int, int]]) -> list[np.ndarray]:
    "The mean slopes (E,) over the members of a model in each window, one thread each, so that the bytes are the same on any machine."
    torch.set_num_threads(1)
    model, out = load_model(name), list[np.ndarray]()
    columns = [model.index(e) for e in (*exposures, OUTCOME)]
    engines = [Propagator(logit_model(m), columns) for m in (model.members if isinstance(model, Ensemble) else (model,))]
    for place in places:
        x = one_hot([shipped_bases(*place)])[0]
        effects = [engine.draw(torch.tensor(x), saturate(x), {})[1].double().numpy() for engine in engines]
        out.append(np.mean([draw_slopes(e[:, :-1].T, e[:, -1]) for e in effects], 0))
    return out


def in_processes(name: str, exposures: list[str], places: list[tuple[str, int, int]], processes: int, step: int = 20) -> Iterator[np.ndarray]:
    "`slopes_of` in so many processes, in the order of the windows."
    parts = [places[i:i + step] for i in range(0, len(places), step)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for i, found in enumerate(pool.map(slopes_of, [name] * len(parts), [exposures] * len(parts), parts)):
            yield from found
            print(f"{min((i + 1) * step, len(places))} of {len(places)} windows", end="\r", file=sys.stderr)


def measured(name: str, processes: int = 1) -> pd.DataFrame:
    "The slopes of every exposure in its windows."
    windows = read_windows()
    exposures = tomllib.loads((Path(__file__).parents[1] / "experiments" / "table1.toml").read_text())["exposures"]
    chosen = {e: set(sample_bound(windows, [e in row for row in windows.labels], len(windows), SEED).name) for e in exposures}
    asked = windows[windows.name.isin(set.union(*chosen.values()))]
    places = list(asked[["chrom", "start", "end"]].itertuples(index=False, name=None))
    rows = [{"exposure": e, "window": window, "slope": s} for window, slopes in zip(asked.name, in_processes(name, exposures, places, processes))
            for e, s in zip(chosen, slopes) if window in chosen[e]]
    return pd.DataFrame(rows).sort_values("exposure", kind="stable")


def bootstrap_t(slopes: np.ndarray, resamples: int = 1000, replicates: int = 600) -> float:
    "Coverage of the equal-tailed bootstrap-t interval."
    rng, held = np.random.default_rng(SEED), 0
    for x in slopes[rng.integers(0, len(slopes), (resamples, N))]:
        again = x[rng.integers(0, N, (replicates, N))]
        t = (again.mean(1) - x.mean()) / np.maximum(again.std(1, ddof=1), 1e-12)
        held += np.quantile(t, 0.025) <= (x.mean() - slopes.mean()) / x.std(ddof=1) <= np.quantile(t, 0.975)
    return held / resamples


def main(results: str, name: str = "hepg2", processes: str = "1") -> None:
    folder = Path(results)
    folder.mkdir(parents=True, exist_ok=True)
    if name != "-":
        write_file(folder / "slopes.csv.gz", gzip.compress(measured(name, int(processes)).to_csv(index=False, float_format="%.6g").encode(), mtime=0))
    else:
        name = json.loads((folder / "slopes.json").read_text())["model"]
    slopes = {e: y for e, f in pd.read_csv(folder / "slopes.csv.gz").groupby("exposure") if len(y := f.slope.to_numpy()) >= 10}
    rows = []
    for e, y in slopes.items():
        shared = pooled_skewness(v for other, v in slopes.items() if other != e)
        rows.append({"exposure": e, "windows": len(y), "mean": y.mean(), "sd": y.std(ddof=1), "skewness": pooled_skewness([y]), "of_others": shared,
                     "t": resampled_coverage(y, N, RESAMPLES, SEED), "bootstrap_t": bootstrap_t(y),
                     "shared_skewness": resampled_coverage(y, N, RESAMPLES, SEED, shared)})
    write_file(folder / "coverage.csv", pd.DataFrame(rows).to_csv(index=False, float_format="%.4g"))
    about = {"command": f"python tools/store_slopes.py results/coverage {name}", "model": name,
             "networks": len(getattr(load_model(name), "members", [0])), "outcome": OUTCOME, "seed": SEED,
             "windows": N, "resamples": RESAMPLES, "of bootstrap-t": 1000, "torch": torch.__version__}
    write_file(folder / "slopes.json", json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
