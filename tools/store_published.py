"""Keep what `20_table1` shows of the published protocol: `python tools/store_published.py [MODEL [RESULTS [WORKERS [WINDOWS [DRAWS]]]]]`.

The factors of experiments/table1.toml are asked as was published: sets of dropout masks, effects on probabilities, the spread over draws as
standard error, MR-Egger in each window, DerSimonian-Laird over windows.
"""
import json
import sys
import time
import tomllib
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from store_four_hundred import keep

from deepmr.core import write_file
from deepmr.draws_mr import has_effect
from deepmr.effects import ALL_WINDOWS, draw_source, make_engine, summarise, window_draws
from deepmr.experiment import Experiment, plan
from deepmr.meta import random_effects
from deepmr.mr import egger
from deepmr.networks import weights_digest
from deepmr.regions import codes_to_one_hot
from deepmr.rundir import versions

ROOT, SEED = Path(__file__).resolve().parents[1], 0


class Asker:
    "A process's own model and engine."

    def __init__(self, experiment: Experiment):
        torch.set_num_threads(1)
        self.plan = p = plan(experiment)
        self.sampler, self.draws = draw_source(p.model, SEED, experiment.draws, False)
        self.engine = make_engine(p.model, [p.model.index(k) for k in p.labels], "auto", self.draws)

    def window(self, i: int) -> list[dict[str, object]]:
        "A record of each exposure that drew a window."
        p, rows = self.plan, []
        draws = window_draws(self.engine, codes_to_one_hot(p.codes[i]), self.sampler, ALL_WINDOWS, self.draws, 1)
        on_y = draws.effects[:, :, -1]
        for e in p.windows.exposures.iloc[i]:
            on_x = draws.effects[:, :, p.labels.index(e)]
            seen = has_effect(on_x, on_y)
            s, root = summarise(on_x[:, seen], on_y[:, seen]), np.sqrt(self.draws)
            m = egger(s["bx"], s["bxse"] * root, s["by"], s["byse"] * root)
            moved = s["bxse"] > 0
            rows.append({"exposure": e, "window": p.windows.name.iloc[i], "estimate": m.estimate, "se": m.se, "n": m.n,
                         "signal": float(np.median(np.abs(s["bx"][moved]) / (s["bxse"][moved] * root)))})
        return rows


_here: list[Asker] = []


def begin(experiment: Experiment) -> None:
    _here.append(Asker(experiment))


def do(i: int) -> list[dict[str, object]]:
    return _here[0].window(i)


def main(name: str = "hepg2-single", results: str = "results/published", workers: str = "2", windows: str = "25", draws: str = "50") -> None:
    begun, folder = time.time(), Path(results)
    folder.mkdir(parents=True, exist_ok=True)
    asked = tomllib.loads((ROOT / "experiments" / "table1.toml").read_text())
    experiment = Experiment(model=name, outcome=asked["outcome"], exposures=asked["exposures"], windows=int(windows), draws=int(draws), seed=SEED,
                            protocol="paper")
    p, records = plan(experiment), list[dict[str, object]]()
    print(f"{len(p.exposures)} factors, {len(p.windows)} windows, {draws} draws", flush=True)
    with ProcessPoolExecutor(int(workers), get_context("spawn"), begin, (experiment,)) as pool:
        for n, rows in enumerate(pool.map(do, range(len(p.windows))), 1):
            records += rows
            if n % 50 == 0:
                print(f"{n} of {len(p.windows)} windows, {time.time() - begun:.0f} s", flush=True)
    local, rows = pd.DataFrame(records), []
    for e in p.exposures:
        here = local[(local.exposure == e) & np.isfinite(local.estimate) & (local.se > 0)]
        m = random_effects(here.estimate.to_numpy(), here.se.to_numpy(), tau2="DL", ci="wald")
        rows.append({"exposure": e, "mean": m.estimate, "se": m.se, "ci_low": m.ci_low, "ci_high": m.ci_high, "i2": m.i2, "tau2": m.tau2,
                     "n_windows": len(here)})
    keep(pd.DataFrame(rows), folder / "table.csv")
    keep(local, folder / "local.csv.gz")
    about = {"command": " ".join(["python", "tools/store_published.py", *sys.argv[1:]]), "outcome": asked["outcome"], "seed": SEED,
             "windows": len(p.windows), "windows of a factor": int(windows), "draws": int(draws), "source": p.source,
             "notes": [n.sentence for n in p.notes],
             "weights_sha256": weights_digest(p.model), "seconds": round(time.time() - begun), "workers": int(workers), "versions": versions()}
    write_file(folder / "run.json", json.dumps(about, indent=1) + "\n")
    print(f"{about['seconds']} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
