"""Seconds of statistics of a default run, without the network: `python benchmarks/answers.py [WINDOWS [EXPOSURES]]`.

Effects are drawn at random: 3,000 mutations of each window on all exposures, 24 decoys and the outcome, by five networks. A window is bound by two
exposures, as in the stored run, and has a site of each: so 500 windows of 40 exposures are 25 windows an exposure. Measured are the sums of a
window, its local answers, and then Table 1 from all of them. Writes benchmarks/results/answers.json; CPU seconds of one thread.
"""
import json
import platform
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from deepmr.answer import local_answer, pooled_answer
from deepmr.controls import q_values
from deepmr.effects import ScaledDraws, as_dataset
from deepmr.mutagenesis import saturate
from deepmr.regions import one_hot

NETWORKS, LENGTH, DECOYS, BOUND = 5, 1000, 24, 2


def window(rng: np.random.Generator, labels: list[str]) -> tuple[ScaledDraws, np.ndarray]:
    "Random effects of all mutations of a random window, and the window (4, L)."
    x = one_hot("".join(rng.choice(list("ACGT"), LENGTH)))[0]
    effects = rng.normal(0, 0.1, (NETWORKS, 3 * LENGTH, len(labels))).astype(np.float32) + rng.normal(0, 0.1, (3 * LENGTH, 1)).astype(np.float32)
    levels = np.full((NETWORKS, len(labels)), 0.3, np.float32)
    return ScaledDraws(saturate(x), levels, effects, levels, 0.2 * effects, ()), x


def main(n: int = 500, exposures: int = 40) -> None:
    torch.set_num_threads(1)
    names = [f"X_TF{i}_None" for i in range(exposures)]
    labels = [*names, *(f"X_decoy{i + 1:02}_None" for i in range(DECOYS)), "X_DNase_None"]
    rng, spent, records = np.random.default_rng(0), {"sums": 0.0, "local answers": 0.0}, {name: [] for name in names}
    sites = {name: np.isin(np.arange(LENGTH) // 20, rng.integers(0, 50, 2)) for name in names}
    others = {name: [names[(i + k) % exposures] for k in (1, 2, 3)] for i, name in enumerate(names)}  # as if they shared its sites
    for w in range(n):
        draws, x = window(rng, labels)
        start = time.process_time()
        data = as_dataset(draws, f"w{w}", labels, x, sums=True)
        between = time.process_time()
        for name in (names[(2 * w + i) % exposures] for i in range(BOUND)):
            records[name].append(local_answer(data, name, sites[name], others[name]) | {"warnings": ""})
        spent["sums"] += between - start
        spent["local answers"] += time.process_time() - between
    start = time.process_time()
    rows = [pooled_answer(name, pd.DataFrame(r), "log-odds", True, skewness=0.5) for name, r in records.items() if r]
    q_values([r.decoy_p for r in rows])
    spent["table"] = time.process_time() - start
    out = {"windows": n, "exposures": exposures, "bound by": BOUND, "decoys": DECOYS, "networks": NETWORKS, "mutations": 3 * LENGTH,
           **{f"{k}, s": round(v, 2) for k, v in spent.items()}, "all, s": round(sum(spent.values()), 2), "machine": platform.machine(),
           "numpy": np.__version__}
    (Path(__file__).parent / "results" / "answers.json").write_text(json.dumps(out, indent=1) + "\n")
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
