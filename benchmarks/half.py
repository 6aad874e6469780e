"""Would products in bfloat16 serve? `python benchmarks/half.py [MODEL ...]`, two minutes on one thread.

Effects of all mutations of windows by the fast engine and by batched forward passes, with float32 products and with those of
`torch.set_float32_matmul_precision("medium")`, which lets the processor round the factors to bfloat16. Seconds are those of the process, the least of
several. `error` is the root mean square difference of the effects to those in float32, over their root mean square. `slope` is the largest change of
a window's slope of the first label on the last. Writes benchmarks/results/half.csv and half.json.
"""
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lengths import least
from threadpoolctl import threadpool_limits

from deepmr.effects import ALL_WINDOWS, draw_source, make_engine, window_draws
from deepmr.models import DeepSEA, load_model
from deepmr.mutagenesis import random_windows
from deepmr.networks import SequenceModel
from deepmr.rundir import versions

HERE = Path(__file__).resolve().parent
SEED, WINDOWS, LABELS = 0, 3, 37


def models(name: str) -> SequenceModel:
    if name != "deepsea":
        return load_model(name)
    torch.manual_seed(SEED)
    net = DeepSEA().eval()
    return SequenceModel(net, [f"label{i}" for i in range(919)], 1000, "DeepSEA's form, random weights")


def asked(model: SequenceModel, way: str, precision: str, x: np.ndarray) -> tuple[float, np.ndarray]:
    "Seconds of a window, and effects (windows, mutations, labels)."
    torch.set_float32_matmul_precision(precision)
    sampler, draws = draw_source(model, SEED, None, True)
    engine = make_engine(model, list(range(min(LABELS, len(model.labels)))), way, draws)
    def ask(w: np.ndarray) -> Any:
        return window_draws(engine, w, sampler, ALL_WINDOWS, draws, 1)
    took = least(lambda: ask(x[0]), 3 if way == "plain" else 6)
    effects = np.stack([ask(w).effects.mean(0) for w in x])
    torch.set_float32_matmul_precision("highest")
    return took, effects


def rows(name: str) -> list[dict[str, Any]]:
    model = models(name)
    x, out = random_windows(WINDOWS, model.length, seed=SEED).numpy(), []
    for way in ("auto", "plain") if name != "deepsea" else ("auto",):  # a minute a window
        exact, first = None, None
        for precision in ("highest", "medium"):
            took, effects = asked(model, way, precision, x)
            bx, by = effects[..., 0].astype(float), effects[..., -1].astype(float)
            slope = (bx * by).sum(1) / (bx * bx).sum(1)
            if exact is None or first is None:
                exact, first = effects, slope
            out.append({"model": model.name, "engine": way, "products": "float32" if precision == "highest" else "bfloat16", "seconds": took,
                        "error": float(np.sqrt(((effects - exact) ** 2).mean() / (exact**2).mean())), "slope": float(np.abs(slope - first).max())})
    return out


def main(*names: str) -> None:
    torch.set_num_threads(1)
    threadpool_limits(1, "blas")
    found = pd.DataFrame([row for name in names or ("hepg2-single", "deepsea") for row in rows(name)])
    found.to_csv(HERE / "results" / "half.csv", index=False, float_format="%.4g")
    about = {"command": " ".join(["python", "benchmarks/half.py", *sys.argv[1:]]), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2),
             "windows": WINDOWS, "versions": versions()}
    (HERE / "results" / "half.json").write_text(json.dumps(about, indent=1) + "\n")
    print(found.to_string(index=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
