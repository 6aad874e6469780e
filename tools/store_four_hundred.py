"""Keep what `22_four_hundred_factors` shows: `python tools/store_four_hundred.py [MODEL [RESULTS [WORKERS [WINDOWS]]]]`.

Every HepG2 label of the model, and those pooled over cells, on the openness of HepG2, by the default protocol. One pass of a network over a
window gives the effects on all labels, so nothing but the slopes is kept. The table is made for all networks and windows, and again for two
disjoint sets of networks and two of windows.
"""
import gzip
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from deepmr.answer import NO_SITES, intercept_t, site_answer
from deepmr.controls import is_decoy
from deepmr.core import write_file
from deepmr.effects import ALL_WINDOWS, draw_source, make_engine, on_scale, window_draws
from deepmr.experiment import Experiment, Plan, default_exposures, plan
from deepmr.models import load_model
from deepmr.networks import weights_digest
from deepmr.notes import codes
from deepmr.pipeline import Sites, own_sites, unpacked
from deepmr.regions import codes_to_one_hot, read_windows
from deepmr.rundir import versions
from deepmr.scale import Asked
from deepmr.tables import _answers

OUTCOME, SEED = "HepG2_DNase_None", 0
KEPT = ["exposure", "mean", "se", "ci_low", "ci_high", "training_low", "training_high", "n_windows", "decoy_percentile", "decoy_low", "decoy_high",
        "decoy_p", "decoy_q", "own_site", "own_low", "own_high", "own_q", "own_decoy_q", "own_rival", "own_direct", "own_direct_low",
        "own_direct_high", "own_rival_ratio", "own_stands", "own_windows", "own_enrichment", "own_reason", "egger_share", "verdict", "warnings"]
SPLIT = ["exposure", "mean", "ci_low", "ci_high", "decoy_percentile", "decoy_low", "decoy_high", "decoy_q", "own_site", "own_low", "own_high",
         "own_rival", "n_windows", "verdict"]


def described(name: str, windows: int) -> tuple[Experiment, list[str]]:
    "The experiment, and the labels for which no window ships."
    model, there = load_model(name), {label for labels in read_windows().labels for label in labels}
    asked = [*default_exposures(model, OUTCOME), *(label for label in model.labels if label.startswith("AnyCell_"))]
    return (Experiment(model=name, outcome=OUTCOME, exposures=[e for e in asked if e in there], windows=windows, seed=SEED),
            [e for e in asked if e not in there])


class Asker:
    "A process's own model and engine."

    def __init__(self, p: Plan):
        torch.set_num_threads(1)
        self.plan, self.asked = p, Asked(p.model)
        self.sampler, self.draws = draw_source(p.model, SEED, None, True)
        self.engine = make_engine(self.asked.model, [p.model.index(k) for k in p.labels], "auto", self.draws)

    def window(self, i: int, sites: Sites) -> tuple[int, np.ndarray, list[dict[str, Any]]]:
        "Number of a window, slopes (K, O - 1) of the labels on the outcome, and a record of each exposure that drew it."
        p, x, name = self.plan, codes_to_one_hot(self.plan.codes[i]), self.plan.windows.name.iloc[i]
        draws = on_scale(window_draws(self.engine, x, self.sampler, ALL_WINDOWS, self.draws, 1), self.asked, "log-odds")
        effects = draws.effects
        if whole := bool(np.isfinite(effects).all()):
            xy, xx = np.matmul(effects[..., -1][:, None], effects)[:, 0], np.einsum("kmo,kmo->ko", effects, effects)
        else:
            there, zero = np.isfinite(effects) & np.isfinite(effects[..., -1:]), np.nan_to_num(effects)
            xy, xx = np.einsum("km,kmo->ko", zero[..., -1], zero), np.einsum("kmo,kmo->ko", zero * there, zero)
        slopes, mean, rows, decoys = (xy / xx)[:, :-1], effects.mean(0), [], [c for c, label in enumerate(p.labels) if is_decoy(label)]
        for e in p.windows.exposures.iloc[i]:
            c, noted = p.labels.index(e), ",".join(codes(draws.notes))
            ok = slice(None) if whole else np.isfinite(mean[:, c]) & np.isfinite(mean[:, -1])
            bx, by, position = mean[ok, c], mean[ok, -1], draws.mutations.position[ok]
            row = {"exposure": e, "window": name, "egger_t": intercept_t(bx, by, position), "warnings": noted} | NO_SITES
            if e in sites:
                inside, rivals = sites[e]
                row |= site_answer(bx, by, position, inside, mean[ok][:, decoys].T, {r: mean[ok, p.labels.index(r)] for r in rivals})
            rows.append(row)
        return i, slopes, rows


_here: list[Asker] = []


def begin(experiment: Experiment) -> None:
    _here.append(Asker(plan(experiment)))


def do(job: tuple[int, Sites]) -> tuple[int, np.ndarray, list[dict[str, Any]]]:
    return _here[0].window(job[0], unpacked(job[1], _here[0].plan.model.length))


def table(records: pd.DataFrame, slopes: dict[str, np.ndarray], p: Plan, networks: list[int], windows: set[str] | None = None) -> pd.DataFrame:
    "The table of some networks and windows; slopes: window -> (K, O - 1)."
    frame = records if windows is None else records[records.window.isin(windows)]
    at, decoys = {e: i for i, e in enumerate(p.labels)}, [i for i, e in enumerate(p.labels[:-1]) if is_decoy(e)]
    found = [slopes[w][networks] for w in frame.window]
    own = [s[:, at[e]] for s, e in zip(found, frame.exposure)]
    frame = frame.assign(draw_slopes=[s.tolist() for s in own], estimate=[s.mean() for s in own],
                         decoy_slopes=[s[:, decoys].mean(0).tolist() for s in found])
    doubts = {e: list(p.model.label_warnings[e]) for e in p.exposures if p.model.label_warnings.get(e)}
    record = {"experiment": {"scale": "log-odds", "controls": "decoys"}, "motifs": list(p.motifs)}
    return _answers({e: f for e in p.exposures if len(f := frame[frame.exposure == e])}, record, doubts)


def keep(frame: pd.DataFrame, path: Path) -> None:
    text = frame.to_csv(index=False, float_format="%.4g").encode()
    write_file(path, gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def main(name: str = "hepg2", results: str = "results/four_hundred", workers: str = "2", windows: str = "25", at_most: str = "0") -> None:
    begun, folder = time.time(), Path(results)
    folder.mkdir(parents=True, exist_ok=True)
    experiment, missing = described(name, int(windows))
    p = plan(experiment)
    left = list(range(len(p.windows)))[:int(at_most) or None]
    sites, slopes, records = own_sites(p, left), {}, []
    print(f"{len(p.exposures)} labels, {len(left)} windows, {p.draws} networks, motifs of {len(p.motifs)}", flush=True)
    with ProcessPoolExecutor(int(workers), get_context("spawn"), begin, (experiment,)) as pool:
        for n, (i, found, rows) in enumerate(pool.map(do, [(i, sites[i]) for i in left]), 1):
            slopes[p.windows.name.iloc[i]] = found
            records += rows
            if n % 50 == 0:
                print(f"{n} of {len(left)} windows, {time.time() - begun:.0f} s", flush=True)
    frame, everything = pd.DataFrame(records), list(range(p.draws))
    order = np.random.default_rng(SEED).permutation(list(slopes))
    keep(table(frame, slopes, p, everything)[KEPT], folder / "table.csv")
    half = p.draws // 2
    parts = {"networks 1": (everything[:half], None), "networks 2": (everything[half:], None),
             "windows 1": (everything, set(order[::2])), "windows 2": (everything, set(order[1::2]))}
    keep(pd.concat([table(frame, slopes, p, k, w)[SPLIT].assign(part=part) for part, (k, w) in parts.items()]), folder / "parts.csv.gz")
    at = {e: i for i, e in enumerate(p.labels)}
    own = [slopes[w][:, at[e]] for w, e in zip(frame.window, frame.exposure)]
    kept = frame.drop(columns=["warnings", "site_decoy_xy", "site_decoy_xx", "rivals", "rival_sums"])
    keep(kept.join(pd.DataFrame(own).add_prefix("network ")), folder / "slopes.csv.gz")
    about = {"command": " ".join(["python", "tools/store_four_hundred.py", *sys.argv[1:]]), "outcome": OUTCOME, "seed": SEED, "windows": len(left),
             "networks": p.draws, "labels": len(p.exposures), "without a window": missing, "decoys": len(p.decoys), "motifs": len(p.motifs),
             "weights_sha256": weights_digest(p.model), "seconds": round(time.time() - begun), "workers": int(workers), "versions": versions()}
    write_file(folder / "run.json", json.dumps(about, indent=1) + "\n")
    print(f"{about['seconds']} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
