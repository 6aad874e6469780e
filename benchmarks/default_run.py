"""What a default run costs, where the time goes, and how it grows: `python benchmarks/default_run.py [WINDOWS]`, some minutes on one thread.

Writes benchmarks/results/default_run.csv and default_run.json. Times are CPU seconds of one thread for one window, medians over windows.
"""
import json
import os
import platform
import sys
import time
import tomllib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits

from deepmr.core import InputError
from deepmr.effects import ALL_WINDOWS, as_dataset, draw_source, make_engine, on_scale, window_draws
from deepmr.experiment import Experiment, plan
from deepmr.networks import Ensemble
from deepmr.pipeline import Worker, own_sites, shipped_records, unpacked
from deepmr.regions import codes_to_one_hot
from deepmr.rundir import netcdf_bytes, versions
from deepmr.scale import Asked

HERE = Path(__file__).resolve().parent
ASKED = tomllib.loads((HERE.parent / "experiments" / "table1.toml").read_text())
OUTCOME = ASKED["outcome"]


def spent(f: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.process_time()
    return (out := f(), time.process_time() - begun)[1], out


def default_run(n: int) -> tuple[list[dict[str, Any]], int]:
    "The parts of a window of the default run, seconds; and the bytes of its file."
    p = plan(Experiment(model="hepg2", outcome=OUTCOME, exposures=ASKED["exposures"], windows=25))
    torch.set_num_threads(1)
    worker, sites, parts = Worker(p.model, p.exposures, p.decoys, p.experiment), own_sites(p, range(n + 1)), defaultdict(list)
    for i in range(n + 1):  # the first one pays for imports
        x, row = codes_to_one_hot(p.codes[i]), p.windows.iloc[i]
        for name, f in (("effects of all mutations", lambda: window_draws(worker.engine, x, worker.sampler, ALL_WINDOWS, p.draws, 1)),
                        ("to log-odds", lambda: on_scale(out, worker.asked, worker.scale)),
                        ("sums over mutations", lambda: as_dataset(out, row["name"], worker.labels, x, False, True).assign_attrs(
                            outcome=OUTCOME, scale=worker.scale)),
                        ("slopes, decoys, own sites", lambda: shipped_records(out, row, unpacked(sites[i], p.model.length), "")),
                        ("the file of the window", lambda: netcdf_bytes(data.isel(exposure=slice(worker.n))))):
            seconds, found = spent(f)
            parts[name].append(seconds)
            if name == "sums over mutations":
                out = data = found
            elif name == "the file of the window":
                size = len(found)
            elif name in ("effects of all mutations", "to log-odds"):
                out = found
    rows = [{"what": "where the time goes", "value": k, "seconds": float(np.median(v[1:]))} for k, v in parts.items()]
    return [{"what": "run of a window", "value": f"default: {p.draws} networks, {len(p.exposures)} factors, {len(p.decoys)} decoys",
             "seconds": sum(r["seconds"] for r in rows)}, *rows], size


def former_run(n: int) -> dict[str, Any]:
    "A window of the former default: one network, 50 sets of masks, a bootstrap in each window and of all pairs."
    p = plan(Experiment(model="hepg2-single", outcome=OUTCOME, exposures=ASKED["exposures"], windows=25, draws=50, protocol="masks"))
    torch.set_num_threads(1)
    worker = Worker(p.model, p.exposures, p.decoys, p.experiment)
    took = [spent(lambda i=i: worker(p.windows.iloc[i], codes_to_one_hot(p.codes[i]), {}, 1))[0] for i in range(n + 1)]
    return {"what": "run of a window", "value": f"former: 1 network, 50 draws, {len(p.exposures)} factors", "seconds": float(np.median(took[1:]))}


def engine_costs(n: int) -> list[dict[str, Any]]:
    "Effects of a window against the number of networks and of labels, and beside the plain engine."
    p, rows = plan(Experiment(model="hepg2", outcome=OUTCOME, exposures=ASKED["exposures"], windows=25)), []
    torch.set_num_threads(1)
    members, labels = p.model.members, [k for k in p.model.labels if k != OUTCOME]

    def add(what: str, value: Any, model: Any, names: list[str], engine: str = "auto", windows: int = n) -> None:
        asked = Asked(model)
        sampler, draws = draw_source(model, 0, None, True)
        run = make_engine(asked.model, [model.index(k) for k in [*names, OUTCOME]], engine, draws)
        took = [spent(lambda i=i: window_draws(run, codes_to_one_hot(p.codes[i]), sampler, ALL_WINDOWS, draws, 1))[0] for i in range(windows + 1)]
        rows.append({"what": what, "value": value, "seconds": float(np.median(took[1:]))})

    for k in (1, 2, 5):
        add("networks", k, Ensemble(members[:k], "some") if k > 1 else members[0], list(p.labels[:-1]))
    for k in (1, 37, 200, len(labels)):
        add("labels, one network", k, members[0], labels[:k])
    add("engine, one network", "plain", members[0], list(p.labels[:-1]), "plain", 1)
    return rows


def main(windows: str = "10") -> None:
    n = int(windows)
    threadpool_limits(1, "blas")  # as a run does
    if n < 2:
        raise InputError(f"windows: found {n}, expected at least 2")
    rows, size = default_run(n)
    rows += [former_run(max(2, n // 3)), *engine_costs(n)]
    default = rows[0]["seconds"]
    rows += [{"what": "windows, reckoned", "value": k, "seconds": default * k} for k in (25, 250, 2_500, 100_000)]
    (HERE / "results").mkdir(exist_ok=True)
    pd.DataFrame(rows).to_csv(HERE / "results" / "default_run.csv", index=False, float_format="%.4g")
    about = {"command": " ".join(["python", "benchmarks/default_run.py", *sys.argv[1:]]), "windows": n, "cores": os.cpu_count(),
             "load": round(os.getloadavg()[0], 2), "processor": platform.machine(), "mutations": 3000, "bytes_of_a_window": size,
             "versions": versions()}
    (HERE / "results" / "default_run.json").write_text(json.dumps(about, indent=1) + "\n")
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
