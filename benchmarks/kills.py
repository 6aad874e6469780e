"""Kill a run with SIGKILL at random moments, continue it, and compare what it leaves with a run that was left alone.

    python benchmarks/kills.py --kills 60 --seed 0

Most kills hit a run in one process (a fork that has everything imported, so that kills fall inside the run), one in eight a run
in two processes, started from the command line; of these every third kill hits one of the worker processes. After every kill
the run is continued, until it is killed again; when it comes to its end its table, local effects, effects and checksums are
compared with those of a run that was not killed, and a new run begins.
Writes benchmarks/results/kills.json.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from deepmr.core import Execution
from deepmr.experiment import Experiment
from deepmr.networks import ConvNet, SequenceModel, save_model
from deepmr.pipeline import run

RESULTS = Path(__file__).parent / "results" / "kills.json"
SHAPE = dict(n_labels=3, channels=(16, 16), kernels=(7, 3), pools=(4, 2), conv_dropout=(0.2, 0.2), hidden=16, hidden_dropout=0.4, length=120)
DRAWS, WINDOWS = 10, 6


def experiment(folder):
    "A small random network on a small random genome."
    torch.manual_seed(0)
    net = ConvNet(**SHAPE)
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(2)
    save_model(SequenceModel(net, ["X_TF1_None", "X_TF2_None", "X_DNase_None"], 120, "toy"), SHAPE, folder / "toy.safetensors")
    bases = "".join(np.random.default_rng(0).choice(list("ACGT"), 3000))
    (folder / "g.fa").write_text(f">chr1\n{bases}\n")
    (folder / "sites.bed").write_text("".join(f"chr1\t{s}\t{s + 50}\n" for s in range(200, 2600, 300)))
    return Experiment(model=str(folder / "toy.safetensors"), outcome="X_DNase_None", regions=str(folder / "sites.bed"), genome=str(folder / "g.fa"),
                      windows=WINDOWS, draws=DRAWS, seed=1)


def content(out):
    "Name -> bytes of what must not depend on kills; of the checksums, which note windows as they come, the set of lines."
    names = ["table1.csv", "local_effects.parquet", *sorted(str(f.relative_to(out)) for d in ("effects", "local") for f in (out / d).iterdir())]
    sums = sorted(line for line in (out / "SHA256SUMS").read_text().splitlines() if not line.endswith("run.json"))
    return {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in names} | {"sums": sums}


def forked(e, out):
    "The run in a process that has everything imported."
    pid = os.fork()
    if pid == 0:
        try:
            run(e, out, Execution(workers=1, announce=lambda line: None))
            os._exit(0)
        except BaseException:
            os._exit(1)
    return pid


def by_command(e, out):
    "The run in two processes, as from a shell."
    command = [sys.executable, "-m", "deepmr.cli", "table1", "--model", e.model, "--outcome", e.outcome, "--regions", e.regions, "--genome",
               e.genome, "--windows", str(e.windows), "--draws", str(e.draws), "--seed", str(e.seed), "--workers", "2", "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid


def workers(pid):
    try:
        return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def ended(pid):
    "None while a child runs, then its exit code (negative: the signal)."
    done, state = os.waitpid(pid, os.WNOHANG)
    return None if not done else os.waitstatus_to_exitcode(state)


def attack(start, e, out, rng, span, victim):
    """Start or continue the run and kill it at a random moment; its exit code, the windows done, and what was hit.

    A fork is killed within span seconds of its start, a command within as many of its taking up the run (one in three) or of the
    first window that it finishes.
    """
    begun, before = time.time_ns(), lines(out)
    early, pid, deadline = rng.random() < 1 / 3, start(e, out), None
    while (code := ended(pid)) is None:
        sums = out / "SHA256SUMS"
        if deadline is None and (start is forked or lines(out) > max(before, 2) or (early and sums.exists() and sums.stat().st_mtime_ns > begun)):
            deadline = time.time() + float(rng.uniform(0, span))
        if deadline is not None and time.time() > deadline:
            there = workers(pid) if victim == "worker" else []
            victim = "worker" if there else "run"  # workers may not have begun, or be gone
            os.kill(there[-1] if there else pid, signal.SIGKILL)
            while (code := ended(pid)) is None:
                time.sleep(0.005)
            break
        time.sleep(0.002)
    return code, max(lines(out) - 2, 0) // 2, victim


def lines(out):
    try:
        return len((out / "SHA256SUMS").read_text().splitlines())
    except FileNotFoundError:
        return 0


def campaign(e, folder, start, kills, span, rng, expected, name):
    "Kill that many times; one record per kill."
    rows, round_, killed = [], 0, 0
    while killed < kills:
        out, hits = folder / f"{name}{round_}", []
        while True:
            victim = "worker" if start is by_command and killed % 3 == 2 else "run"
            aim = killed < kills
            code, done, victim = attack(start, e, out, rng, span if aim else 1e9, victim)
            if code == 0:
                break
            assert code == (-9 if victim == "run" else 2), f"the run ended with {code} by itself"
            killed += 1
            hits.append({"how": name, "victim": victim, "exit": code, "windows_done": done})
            print(f"{name} kill {killed}: {victim}, {done} of {WINDOWS} windows were done", flush=True)
        same = content(out) == expected
        rows += [{**hit, "identical": same} for hit in hits]
        round_ += 1
    return rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng, several = np.random.default_rng(args.seed), args.kills // 8
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        e = experiment(folder)
        begin, pid = time.time(), forked(e, folder / "whole")
        while (code := ended(pid)) is None:
            time.sleep(0.01)
        assert code == 0
        seconds = time.time() - begin
        expected = content(folder / "whole")
        rows = campaign(e, folder, forked, args.kills - several, 0.7 * seconds, rng, expected, "one process")
        rows += campaign(e, folder, by_command, several, 0.7 * seconds, rng, expected, "two processes")
    record = {"command": f"python benchmarks/kills.py {' '.join(sys.argv[1:])}".strip(), "seed": args.seed, "windows": WINDOWS, "draws": DRAWS,
              "seconds_undisturbed": round(seconds, 2), "kills": len(rows), "identical": sum(r["identical"] for r in rows), "each": rows}
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{len(rows)} kills, {record['identical']} of them in runs that ended with the same bytes")
    sys.exit(record["identical"] < len(rows))


if __name__ == "__main__":
    main()
