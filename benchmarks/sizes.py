"""Seconds of what surrounds the engine: start-up, plan, windows, reading, tables, figures, report and matrix, against the number of windows.

    python benchmarks/sizes.py --windows 25 250 2500 --exposures 19

The network is tiny, so that what it computes is little beside the rest. Times are those of the process (its computing, on all its threads), since
other work on the machine lengthens the clock's; commands are started anew, as from a shell, and their children's computing is counted.
`per_window` divides what was added since the smaller run by the windows that were added. Writes benchmarks/results/sizes.csv, one row for each stage.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from deepmr.core import Execution
from deepmr.experiment import Experiment, plan
from deepmr.networks import ConvNet, SequenceModel, save_model
from deepmr.pipeline import run
from deepmr.plots import draw_figures
from deepmr.report import report
from deepmr.rundir import status
from deepmr.tables import direct_effects, effect_matrix, read_local, read_slopes, table1

RESULTS = Path(__file__).parent / "results" / "sizes.csv"
LENGTH = 100


def inputs(folder: Path, exposures: int, windows: int) -> Experiment:
    "A small network with random weights, a random genome, and regions that do not touch and serve every exposure."
    labels = [*(f"X_TF{i}_None" for i in range(exposures)), "X_DNase_None"]
    shape: dict[str, Any] = dict(n_labels=len(labels), channels=(8, 8), kernels=(7, 3), pools=(4, 2), conv_dropout=(0.2, 0.2), hidden=8,
                                 hidden_dropout=0.3, length=LENGTH)
    torch.manual_seed(0)
    net = ConvNet(**shape)
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(2)
    save_model(SequenceModel(net, labels, LENGTH, "tiny"), shape, folder / "tiny.safetensors")
    bases = "".join(np.random.default_rng(0).choice(list("ACGT"), (windows + 2) * LENGTH))
    (folder / "g.fa").write_text(f">chr1\n{bases}\n")
    (folder / "sites.bed").write_text("".join(f"chr1\t{LENGTH * i}\t{LENGTH * (i + 1)}\n" for i in range(1, windows + 1)))
    return Experiment(model=str(folder / "tiny.safetensors"), outcome=labels[-1], regions=str(folder / "sites.bed"), genome=str(folder / "g.fa"),
                      windows=windows, seed=1)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    "Seconds of computing of this process, and what the work gave."
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def command(*arguments: str) -> float:
    "Seconds of computing of a command, from its start to its end."
    start = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "deepmr.cli", *arguments], check=True, capture_output=True)
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    return end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime


def measure(exposures: int, windows: int) -> dict[str, float]:
    "Stage -> seconds, for one size."
    quiet = Execution(workers=1, announce=lambda line: None)
    with tempfile.TemporaryDirectory() as name:
        folder, seconds = Path(name), {}
        os.environ["DEEPMR_CACHE"] = str(folder / "cache")
        asked, out = inputs(folder, exposures, windows), folder / "run"
        seconds["plan"], planned = timed(lambda: plan(asked, quiet))
        seconds["windows and tables"], _ = timed(lambda: run(planned, out, quiet))
        seconds["nothing left to do"], _ = timed(lambda: run(planned, out, quiet))
        for stage, work in (("status", status), ("read_local", read_local), ("table1", table1), ("read_slopes", read_slopes),
                            ("effect_matrix", effect_matrix),
                            ("direct_effects", direct_effects), ("figures", draw_figures), ("report", report)):
            seconds[stage], _ = timed(lambda: work(out))
        seconds["command: --help"] = command("--help")
        seconds["command: status"] = command("status", str(out))
        seconds["command: matrix"] = command("matrix", str(out))
        seconds["command: report"] = command("report", str(out))
        files = [f for f in out.rglob("*") if f.is_file()]
        return seconds | {"files": len(files), "megabytes": sum(f.stat().st_size for f in files) / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, nargs="+", default=[25, 250, 2500])
    parser.add_argument("--exposures", type=int, default=19)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    measure(2, 3)  # what is imported late is imported here
    sizes = sorted(options.windows)
    found = {}
    for n in sizes:
        found[n] = measure(options.exposures, n)
        print(n, {k: round(v, 2) for k, v in found[n].items()}, flush=True)
    rows = []
    for stage in found[sizes[0]]:
        for before, n in zip([None, *sizes], sizes):
            value, first = found[n][stage], found[sizes[0]][stage]
            added = None if before is None else (value - found[before][stage]) / (n - before)
            rows.append({"stage": stage, "windows": n, "exposures": options.exposures, "value": round(value, 3),
                         "ratio": round(value / first, 2) if first else None, "per_window": None if added is None else round(added, 6)})
    pd.DataFrame(rows).to_csv(options.out, index=False)


if __name__ == "__main__":
    main()
