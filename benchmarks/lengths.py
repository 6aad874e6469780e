"""Cost of all 3L substitutions of a window against its length L: `python benchmarks/lengths.py [LENGTH ...]`, a minute on one thread.

The network has the default model's form (convolutions, pooling, two dense layers) with random weights and reads the whole window. Seconds are those
of the process on one thread, the least of several: the engine's are measured whole, the plain ones reckoned from a batch of forward passes. Writes
benchmarks/results/lengths.csv and lengths.json.
"""
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits

from deepmr.effects import ALL_WINDOWS, draw_source, make_engine, window_draws
from deepmr.networks import ConvNet, SequenceModel
from deepmr.regions import codes_to_one_hot
from deepmr.rundir import versions

HERE = Path(__file__).resolve().parent
LABELS, BATCH, SEED = 62, 64, 0


def least(f: Callable[[], Any], times: int) -> float:
    "CPU seconds of the process, the least of several: `window_draws` works in a thread of its own, which a clock of this one would miss."
    took = []
    for _ in range(times):
        begun = time.process_time()
        f()
        took.append(time.process_time() - begun)
    return min(took)


def row(length: int) -> dict[str, float]:
    torch.manual_seed(SEED)
    names = [f"label{i}" for i in range(LABELS)]
    model = SequenceModel(ConvNet(LABELS, length=length).eval(), names, length, f"random-{length}")
    x = codes_to_one_hot(np.random.default_rng(SEED).integers(0, 4, length))
    sampler, draws = draw_source(model, SEED, None, True)
    engine = make_engine(model, [model.index(k) for k in names], "auto", draws)
    fast = least(lambda: window_draws(engine, x, sampler, ALL_WINDOWS, draws, 1), 4)
    batch = np.repeat(x[None], BATCH, 0)
    plain = least(lambda: model.predict(batch), 4) / BATCH * 3 * length
    return {"length": length, "mutations": 3 * length, "engine": fast, "plain_reckoned": plain}


def main(*lengths: str) -> None:
    torch.set_num_threads(1)
    threadpool_limits(1, "blas")
    found = pd.DataFrame([row(int(n)) for n in lengths or (250, 500, 1000, 2000, 4000)])
    found.to_csv(HERE / "results" / "lengths.csv", index=False, float_format="%.4g")
    about = {"command": " ".join(["python", "benchmarks/lengths.py", *sys.argv[1:]]), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2),
             "labels": LABELS, "batch": BATCH, "versions": versions()}
    (HERE / "results" / "lengths.json").write_text(json.dumps(about, indent=1) + "\n")
    print(found.to_string(index=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
