"""Runs on a Dask cluster: the bytes of one process, whatever happens to the workers; and what can be wrong with a cluster."""
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from conftest import toy_experiment, toy_model
from deepmr.cli import app
from deepmr.core import Execution, InputError
from deepmr.experiment import plan
from deepmr.networks import save_model
from deepmr.pipeline import run

distributed = pytest.importorskip("distributed")
quiet = Execution(announce=lambda line: None)


def quietly(**change):
    return replace(quiet, **change)


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=":0") as made:
        yield made


def differing(one, other):
    "Names of the files of two runs that should be the same, and are not."
    names = ["table1.csv", "local_effects.parquet", "windows.bed", *(f"{d}/{f.name}" for d in ("effects", "local") for f in (one / d).iterdir())]
    return [name for name in names if (one / name).read_bytes() != (other / name).read_bytes()]


def test_bytes_of_one_process_though_a_worker_is_killed(cluster, named, toy_files):
    run(named, toy_files / "one", quietly(workers=1))
    with distributed.Client(cluster, set_as_default=False) as client:
        before, killed = client.run(os.getpid), []

    def kill(done, total, window):
        if not killed and done < total / 2:
            killed.append(next(iter(before.values())))
            os.kill(killed[0], signal.SIGKILL)

    seen = []
    run(named, toy_files / "many", quietly(scheduler=cluster.scheduler_address, progress=lambda *a: (seen.append(a[:2]), kill(*a))))
    assert killed and seen == [(30 * (i + 1), 240) for i in range(8)]
    assert not differing(toy_files / "one", toy_files / "many")
    with distributed.Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
        assert killed[0] not in client.run(os.getpid).values()  # it was a worker, and it is gone


def test_a_run_begun_here_is_finished_there(cluster, named, toy_files):
    run(named, toy_files / "one", quietly(workers=1))

    def stop(done, total, window):
        if done == 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(named, toy_files / "two", quietly(workers=1, progress=stop))
    damaged = next((toy_files / "two" / "effects").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-7])
    said = []
    run(named, toy_files / "two", Execution(scheduler=cluster.scheduler_address, announce=said.append))
    assert not differing(toy_files / "one", toy_files / "two") and "doing these again" in said[-1]


def test_from_the_command_line(cluster, named, toy_files):
    options = ["table1", "--model", named.model, "--outcome", named.outcome, "--regions", named.regions, "--genome", named.genome,
               "--windows", "2", "--draws", "4", "--scheduler", cluster.scheduler_address, "--out"]
    done = CliRunner().invoke(app, [*options, str(toy_files / "run")])
    assert done.exit_code == 0, done.output
    run(replace(named, windows=2, draws=4, seed=0), toy_files / "one", quietly(workers=1))
    assert not differing(toy_files / "one", toy_files / "run")


def test_weights_must_be_there_and_the_same(cluster, named, toy_files):
    p, weights = plan(named, quiet), Path(named.model)
    weights.rename(toy_files / "elsewhere")
    with pytest.raises(InputError, match="a worker says: model: found no file"):
        run(p, toy_files / "run", quietly(scheduler=cluster.scheduler_address))
    config = dict(n_labels=3, channels=(16, 16), kernels=(7, 3), pools=(4, 2), conv_dropout=(0.2, 0.2), hidden=16, hidden_dropout=0.4, length=120)
    save_model(toy_model(seed=5), config, weights)
    with pytest.raises(InputError, match="a worker says: model: found other weights"):
        run(p, toy_files / "run", quietly(scheduler=cluster.scheduler_address))
    (toy_files / "elsewhere").rename(weights)
    assert len(run(p, toy_files / "run", quietly(scheduler=cluster.scheduler_address))) == 2


def test_an_experiment_file_on_a_cluster(cluster, named, toy_files):
    (toy_files / "e.toml").write_text(f"""
model = "{Path(named.model).name}"
outcome = "X_DNase_None"
chromosomes = ["chr1"]
windows = 2
draws = 4

[genome]
file = "{Path(named.genome).name}"

[peaks]
X_TF1_None = {{ file = "{Path(named.regions).name}" }}
""")
    Path(named.regions).write_text("".join(f"chr1\t{s}\t{s + 250}\n" for s in range(300, 2400, 300)))
    for out, where in (("one", ["--workers", "1"]), ("many", ["--scheduler", cluster.scheduler_address])):
        done = CliRunner().invoke(app, ["run", str(toy_files / "e.toml"), "--out", str(toy_files / out), *where])
        assert done.exit_code == 0, done.output
    assert not differing(toy_files / "one", toy_files / "many")


ELSEWHERE = """
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as made:
        print(made.scheduler_address, flush=True)
        input()
"""


def test_a_scheduler_that_is_lost_loses_no_finished_window(named, toy_files):
    (toy_files / "elsewhere.py").write_text(ELSEWHERE)
    with subprocess.Popen([sys.executable, str(toy_files / "elsewhere.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as cluster:
        address = cluster.stdout.readline().strip()

        def kill(done, total, window):
            if done:
                cluster.kill()

        with pytest.raises(InputError, match="was lost; finished windows are kept, continue with the same command"):
            run(named, toy_files / "run", quietly(scheduler=address, progress=kill))
    kept = len(list((toy_files / "run" / "effects").iterdir()))
    assert 0 < kept < 8
    seen = []
    run(named, toy_files / "run", quietly(workers=1, progress=lambda done, total, window: seen.append(done)))
    run(named, toy_files / "one", quietly(workers=1))
    assert not differing(toy_files / "one", toy_files / "run") and seen[0] > 30 * (kept - 1)


def test_a_run_that_loses_its_last_worker_says_so_and_goes_on_with_the_next(named, toy_files):
    run(named, toy_files / "one", quietly(workers=1))
    left, waited = [], []
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as shrinking:

        def leave(done, total, window):
            if not left:
                left.append(done)
                shrinking.scale(0)

        def hire(line):
            if "no worker" in line:
                waited.append(line)
                shrinking.scale(1)

        run(named, toy_files / "many", Execution(scheduler=shrinking.scheduler_address, announce=hire, progress=leave))
    assert left == [30] and waited == [f"scheduler {shrinking.scheduler_address}: no worker, waiting for one …"]
    assert not differing(toy_files / "one", toy_files / "many")


DIES = """
import os
import deepmr.pipeline
deepmr.pipeline.window_draws = lambda *a, **k: os._exit(1)
"""


def test_a_window_that_ends_every_worker_is_given_up(named, toy_files):
    (toy_files / "dies.py").write_text(DIES)
    alone = dict(n_workers=1, threads_per_worker=1, dashboard_address=":0", preload=[str(toy_files / "dies.py")])
    with distributed.LocalCluster(**alone) as deadly, distributed.Client(deadly, set_as_default=False):
        deadly.scheduler.allowed_failures = 0
        with pytest.raises(InputError, match="a window was given up after its workers ended, one after the other"):
            run(named, toy_files / "run", quietly(scheduler=deadly.scheduler_address))


HIDE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "deepmr": raise ModuleNotFoundError(f"No module named {name!r}", name="deepmr")
sys.meta_path.insert(0, Hidden())
"""


def test_a_worker_without_the_package(named, toy_files):
    (toy_files / "hide.py").write_text(HIDE)
    alone = dict(n_workers=1, threads_per_worker=1, dashboard_address=":0", preload=[str(toy_files / "hide.py")])
    with distributed.LocalCluster(**alone) as bare, pytest.raises(InputError, match="a worker has no deepmr, expected deepmr"):
        run(named, toy_files / "run", quietly(scheduler=bare.scheduler_address))


def test_a_cluster_that_cannot_be_used_is_one_sentence_before_anything_is_written(named, toy, toy_files, monkeypatch):
    def fails(text, experiment=named, scheduler="tcp://127.0.0.1:9"):
        with pytest.raises(InputError, match=text):
            run(experiment, toy_files / "run", quietly(scheduler=scheduler))
        assert not (toy_files / "run").exists()

    fails("does not answer .*refused.* expected tcp://HOST:PORT")
    fails("does not answer .*expected tcp://HOST:PORT", scheduler="somewhere")
    fails("a model given as a Python object", toy_experiment(toy, toy_files))
    monkeypatch.setitem(sys.modules, "distributed", None)
    fails(r"found no package distributed, expected it: pip install 'deepmr\[dask\]'")


@pytest.mark.long
def test_the_benchmark_of_a_run_does_one(tmp_path):
    script = Path(__file__).resolve().parents[1] / "benchmarks" / "cluster.py"
    done = subprocess.run([sys.executable, str(script), "one-run", "--windows", "1", "--out", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout.splitlines()[-1])["peak_mb"] > 0, done.stderr[-500:]
