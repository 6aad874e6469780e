"""Runs of the default model: how they grow with workers of a Dask cluster, and what memory they take.

    python benchmarks/cluster.py scaling --repeats 3   # 8 windows, 10 draws, on one worker and on two, in turn
    python benchmarks/cluster.py memory                # the peak of a run of 10 windows and of one of 100, 5 draws

Each writes its part of benchmarks/results/cluster.json.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from deepmr.core import Execution
from deepmr.experiment import Experiment, Plan, default_exposures
from deepmr.models import load_model
from deepmr.mutagenesis import random_windows
from deepmr.pipeline import run

RESULTS = Path(__file__).parent / "results" / "cluster.json"


def random_plan(windows, draws):
    "A plan of the default experiment on random windows, two exposures each."
    model = load_model("hepg2-single")
    exposures = default_exposures(model, "HepG2_DNase_None")[:19]
    frame = pd.DataFrame({"name": [f"random:{i}" for i in range(windows)], "chrom": "random", "start": 0, "end": 1000})
    frame["exposures"] = [(exposures[i % 19], exposures[(i + 7) % 19]) for i in range(windows)]
    codes = random_windows(windows, 1000, seed=0).numpy().argmax(1).astype(np.int8)
    return Plan(Experiment(model="hepg2-single", draws=draws, protocol="masks"), model, exposures, frame, codes, "random")


def quiet(line):
    pass


def scaling(args):
    "Seconds of a run by the number of workers, in turn, each cluster warm; size of what travels."
    from distributed import LocalCluster

    p, warm = random_plan(8, 10), random_plan(4, 2)
    seconds, sent = {1: [], 2: []}, []
    for _ in range(args.repeats):
        for workers in seconds:
            with tempfile.TemporaryDirectory() as place, LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster:
                run(warm, Path(place) / "warm", Execution(announce=quiet, scheduler=cluster.scheduler_address))
                begin = time.perf_counter()
                run(p, Path(place) / "run", Execution(announce=quiet, scheduler=cluster.scheduler_address))
                seconds[workers].append(time.perf_counter() - begin)
                sent = [f.stat().st_size for f in (Path(place) / "run").glob("[el]*/*")]
                print(workers, "workers:", round(seconds[workers][-1], 2), "s", flush=True)
    ratios = [a / b for a, b in zip(seconds[1], seconds[2])]
    return {"windows": 8, "draws": 10, "seconds": {str(k): v for k, v in seconds.items()}, "ratio": statistics.median(ratios), "ratios": ratios,
            "bytes_back_per_window": sum(sent) / 8}


def memory(args):
    "Peak resident memory of a process that does a run."
    out = {}
    for windows in (10, 100):
        with tempfile.TemporaryDirectory() as place:
            done = subprocess.run([sys.executable, __file__, "one-run", "--windows", str(windows), "--out", place],
                                  check=True, capture_output=True, text=True)
            out[str(windows)] = json.loads(done.stdout.splitlines()[-1])
            print(windows, "windows:", out[str(windows)], flush=True)
    few, many = out["10"], out["100"]
    return {"draws": 5, "peak_mb": {k: v["peak_mb"] for k, v in out.items()}, "seconds": {k: v["seconds"] for k, v in out.items()},
            "kb_per_window": (many["peak_mb"] - few["peak_mb"]) * 1000 / 90, "before_mb": few["before_mb"]}


def one_run(args):
    p = random_plan(args.windows, 5)
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.perf_counter()
    run(p, Path(args.out) / "run", Execution(workers=1, announce=quiet))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"before_mb": before, "peak_mb": peak, "seconds": time.perf_counter() - begin}))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["scaling", "memory", "one-run"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--windows", type=int)
    parser.add_argument("--out")
    args = parser.parse_args()
    if args.what == "one-run":
        return one_run(args)
    found = {"scaling": scaling, "memory": memory}[args.what](args)
    found |= {"command": f"python benchmarks/cluster.py {' '.join(sys.argv[1:])}", "python": platform.python_version(), "torch": torch.__version__,
              "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2)}
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(stored | {args.what: found}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
