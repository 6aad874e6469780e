"""Runs: killed and continued, from another place, without a genome, and from the command line."""
import base64
import errno
import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st
from typer.testing import CliRunner

from conftest import toy_experiment, toy_model
from deepmr.adapters import adapt
from deepmr.answer import LOCAL_ESTIMATORS, PROTOCOLS
from deepmr.cli import app
from deepmr.core import Execution, InputError
from deepmr.experiment import Experiment, default_exposures, plan
from deepmr.models import load_model
from deepmr.mutagenesis import random_windows
from deepmr.networks import Ensemble, SequenceModel
from deepmr.notes import codes
from deepmr.pipeline import bounded_map, run, write_effects
from deepmr.regions import read_windows
from deepmr.robust import weighted_median
from deepmr.rundir import disk_needed, file_stem, netcdf_bytes, status
from deepmr.tables import compare, direct_effects, directions, effect_matrix, open_effects, read_local, read_slopes, table1

ROOT = Path(__file__).resolve().parents[1]
quiet = Execution(announce=lambda line: None)
SPREAD = {name: p for name, p in PROTOCOLS.items() if not p.shipped}  # protocols that need draws


def quietly(**change):
    return replace(quiet, **change)


def test_tables_are_the_same_bytes_for_any_workers_and_place(toy, toy_files):
    run(toy_experiment(toy, toy_files), toy_files / "one", quietly(workers=1))
    run(toy_experiment(toy, toy_files), toy_files / "deep" / "er" / "two", quietly(workers=2))
    for name in ("table1.csv", "local_effects.parquet", "windows.bed"):
        assert (toy_files / "one" / name).read_bytes() == (toy_files / "deep" / "er" / "two" / name).read_bytes()


def test_processes_give_the_bytes_of_one(named, toy_files, monkeypatch):
    run(named, toy_files / "one", quietly(workers=1))
    with monkeypatch.context() as m:  # so many windows are not done here
        m.setattr("deepmr.pipeline.window_draws", lambda *a: pytest.fail("expected processes"))
        seen = []
        run(named, toy_files / "two", quietly(workers=2, progress=lambda done, total, name: seen.append((done, total))))
    assert seen == [(30 * (i + 1), 240) for i in range(8)]
    for name in ("table1.csv", "local_effects.parquet", *(f"effects/{f.name}" for f in (toy_files / "one" / "effects").iterdir())):
        assert (toy_files / "one" / name).read_bytes() == (toy_files / "two" / name).read_bytes()


@pytest.mark.long
def test_no_process_outlives_a_killed_run(named, toy_files):
    run(named, toy_files / "whole", quietly(workers=1))
    command = [sys.executable, "-m", "deepmr.cli", "table1", "--model", named.model, "--outcome", named.outcome, "--regions",
               named.regions, "--genome", named.genome, "--windows", "8", "--draws", "30", "--seed", "1", "--workers", "2",
               "--out", str(toy_files / "killed")]
    parent = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while parent.poll() is None and not list(toy_files.glob("killed/local/*.json")):
        time.sleep(0.01)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    parent.kill(), parent.wait()
    deadline = time.time() + 20
    while any(Path(f"/proc/{c}/cmdline").exists() and Path(f"/proc/{c}/cmdline").read_bytes() for c in children):
        assert time.time() < deadline, "a worker process outlived the run"
        time.sleep(0.05)
    assert len(children) >= 2
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for name in ("table1.csv", "local_effects.parquet"):
        assert (toy_files / "killed" / name).read_bytes() == (toy_files / "whole" / name).read_bytes()


KILLED = """
import sys; sys.path.insert(0, {tests!r})
from conftest import toy_experiment, toy_model
from deepmr.adapters import adapt
from pathlib import Path
from deepmr.core import Execution
from deepmr.pipeline import run
run(toy_experiment(toy_model(), Path({files!r}), draws=30), {out!r}, Execution(announce=lambda line: None))
"""


@pytest.mark.long
def test_sigkill_at_any_moment_and_continue(toy, toy_files):
    whole = run(toy_experiment(toy, toy_files, draws=30), toy_files / "whole", quiet)
    out, rng, kills = toy_files / "killed", np.random.default_rng(0), 0
    script = KILLED.format(tests=str(Path(__file__).parent), files=str(toy_files), out=str(out))
    for _ in range(40):
        child = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL, env=os.environ)
        before = len(list((out / "local").glob("*.json"))) if out.exists() else 0
        while child.poll() is None and len(list(out.glob("local/*.json"))) <= before:
            time.sleep(0.01)  # wait for one more window, then kill at a random moment
        time.sleep(float(rng.uniform(0, 0.15)))
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            kills += 1
        if child.wait() == 0:
            break
    assert kills >= 1 and child.returncode == 0
    for name in ("table1.csv", "local_effects.parquet"):
        assert (out / name).read_bytes() == (toy_files / "whole" / name).read_bytes()
    assert len(whole) == 2


def test_a_second_process_on_a_directory_is_refused(named, toy_files):
    out = toy_files / "run"
    script = KILLED.format(tests=str(Path(__file__).parent), files=str(toy_files), out=str(out)).replace("draws=30", "draws=400")
    first = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    while first.poll() is None and not list(out.glob("local/*.json")):
        time.sleep(0.01)
    assert first.poll() is None
    with pytest.raises(InputError, match="in use by another run"):
        run(toy_experiment(toy_model(), toy_files, draws=400), out, quiet)
    first.kill(), first.wait()
    run(toy_experiment(toy_model(), toy_files, draws=400), out, quiet)  # the lock went with its holder


def content(out):
    "What a run leaves and no kill may change."
    names = ["table1.csv", "local_effects.parquet", "windows.bed", *(f"{d}/{f.name}" for d in ("effects", "local") for f in (out / d).iterdir())]
    return {name: (out / name).read_bytes() for name in names}


DAMAGE = {
    "cut short": lambda f, other: f.write_bytes(f.read_bytes()[:-1]),
    "one bit": lambda f, other: f.write_bytes(bytes([f.read_bytes()[0], f.read_bytes()[1] ^ 4]) + f.read_bytes()[2:]),
    "empty": lambda f, other: f.write_bytes(b""),
    "gone": lambda f, other: f.unlink(),
    "longer": lambda f, other: f.write_bytes(f.read_bytes() + b" "),
    "that of another window": lambda f, other: f.write_bytes(other.read_bytes()),
}


def test_any_damage_to_a_window_is_found_said_and_mended(toy, toy_files):
    e, out = toy_experiment(toy, toy_files), toy_files / "run"
    run(e, out, quiet)
    before, windows = content(out), len(list((out / "local").iterdir()))
    for name, damage in DAMAGE.items():
        victims = []
        for i, folder in enumerate(("effects", "local")):  # of two windows
            files = sorted((out / folder).iterdir())
            damage(files[i], files[1 - i])
            (out / folder / f".{files[i].name}.1.part").write_bytes(b"x")  # half a file of a killed run
            victims.append(files[i].name)
        shown = CliRunner().invoke(app, ["status", str(out)])
        assert shown.exit_code == 0 and f"{windows - 2} of {windows} windows done" in shown.output, name
        assert "files of 2 windows are damaged or missing: the same command does them again" in shown.output
        for victim, read in zip(victims, (read_slopes, table1)):
            with pytest.raises(InputError, match=f"{victim} is {'missing' if name == 'gone' else 'damaged'}, expected what deepmr wrote"):
                read(out)
        said = []
        run(e, out, Execution(announce=said.append))
        assert [line for line in said if "doing these again" in line] and content(out) == before, name
        assert not list(out.glob("**/*.part"))


def test_a_report_of_a_damaged_run_is_one_sentence(toy, toy_files):
    out = toy_files / "run"
    run(toy_experiment(toy, toy_files), out, quiet)
    victim = next((out / "local").iterdir())
    victim.write_text(victim.read_text()[:-20])
    done = CliRunner().invoke(app, ["report", str(out)])
    assert done.exit_code == 2 and len(done.stderr.splitlines()) == 1 and f"{victim.name} is damaged" in done.stderr


@pytest.mark.parametrize("change", ["gone", "empty", "cut", "flipped"])
def test_windows_without_their_checksums_are_not_trusted(toy, toy_files, change):
    e, out = toy_experiment(toy, toy_files), toy_files / "run"
    run(e, out, quiet)
    before, sums = content(out), out / "SHA256SUMS"
    text = sums.read_text()
    written = {"gone": None, "empty": "", "cut": text[:-30], "flipped": text[:-90] + ("0" if text[-90] != "0" else "1") + text[-89:]}[change]
    sums.unlink() if written is None else sums.write_text(written)
    again = []
    run(e, out, quietly(progress=lambda done, total, window: again.append(window)))
    assert len(set(again)) == (1 if change in ("cut", "flipped") else len(before) // 2 - 1) and content(out) == before
    assert sorted(sums.read_text().splitlines()) == sorted(text.splitlines())


def test_a_disk_that_fills_up_loses_nothing(toy, toy_files, monkeypatch):
    e, out, write, calls = toy_experiment(toy, toy_files), toy_files / "run", Path.write_bytes, itertools.count()

    def full(path, data):
        if path.parent.name == "local" and next(calls) == 1:  # of the second window
            write(path, data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    with monkeypatch.context() as m:
        m.setattr(Path, "write_bytes", full)
        with pytest.raises(InputError, match=r"out: .*\.json cannot be written \(No space left on device\)"):
            run(e, out, quiet)
    assert status(out)["done"] == 1 and not list(out.glob("**/*.part"))
    run(e, out, quiet)
    run(e, toy_files / "whole", quiet)
    assert content(out) == content(toy_files / "whole")


CODE = """
import os
import torch
from deepmr.networks import Ensemble, SequenceModel
from deepmr.notes import codes
from conftest import toy_model

class Code(torch.nn.Module):
    "A network in code that can change while its weights stay."
    def __init__(self, change, seed=0):
        super().__init__()
        self.network, self.change = toy_model(seed).module, change
        for layer in self.network.modules():
            if change == "dropout" and isinstance(layer, torch.nn.Dropout): layer.p += 0.05
        self.register_buffer("scale", torch.tensor(0.9 if change == "buffer" else 1.0), persistent=False)
    def forward(self, x):
        if self.change == "alphabet": x = x[:, [0, 2, 1, 3]]
        y = self.network(torch.cat([x, x.flip(1, 2)]) if self.change == "strand" else x)
        if self.change == "strand": y = sum(y.chunk(2)) / 2
        return y ** 1.1 if self.change == "function" else y * self.scale

def load(change=None, seed=0):
    return SequenceModel(Code(change or os.environ.get("CHANGE", ""), seed), toy_model().labels, 120, "own")

def members(change):
    return Ensemble([load(), load(change, seed=1), load(seed=2)])
"""


@pytest.fixture
def code(monkeypatch, toy_files):
    (toy_files / "own_code.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(toy_files))
    monkeypatch.setenv("PYTHONPATH", f"{toy_files}:{Path(__file__).parent}:{ROOT}")
    monkeypatch.delitem(sys.modules, "own_code", raising=False)
    import own_code
    return own_code


@pytest.mark.parametrize("change", ["alphabet", "strand", "dropout", "buffer", "function"])
def test_a_model_whose_code_has_changed_is_another_run(code, toy_files, change):
    def stop(done, total, window):
        if done == total // 2:
            raise KeyboardInterrupt

    for name, made in (("one", code.load), ("members", code.members)):
        if (name, change) == ("members", "dropout"):
            continue  # members are read without masks
        out, draws = toy_files / name, {"draws": None if name == "members" else 6}
        with pytest.raises(KeyboardInterrupt, match=r"stopped; finished windows are kept in .*, and the same call goes on from there"):
            run(toy_experiment(made(""), toy_files, **draws), out, quietly(progress=stop, workers=1))
        before = {f: f.read_bytes() for f in out.rglob("*") if f.is_file()}
        with pytest.raises(InputError, match=r"holds another run \(it differs in what the model predicts\)"):
            run(toy_experiment(made(change), toy_files, **draws), out, quiet)
        assert {f: f.read_bytes() for f in out.rglob("*") if f.is_file()} == before
        run(toy_experiment(made(""), toy_files, **draws), out, quiet)
        with pytest.raises(InputError, match="what the model predicts"):
            run(toy_experiment(made(change), toy_files, **draws), out, quiet)


def test_windows_that_serve_other_exposures_are_another_run(toy, toy_files):
    def asked(labels):
        lines = (f"chr1\t{s}\t{s + 120}\t{labels[i % 2]}\n" for i, s in enumerate(range(200, 1800, 200)))
        (toy_files / "labels.bed").write_text("#chrom\tstart\tend\tlabels\n" + "".join(lines))
        return toy_experiment(toy, toy_files, regions=str(toy_files / "labels.bed"), windows=8)

    out = toy_files / "run"
    table = run(asked(("X_TF1_None", "X_TF2_None")), out, quiet)
    with pytest.raises(InputError, match=r"holds another run \(it differs in exposures_of_windows_sha256\)"):
        run(asked(("X_TF2_None", "X_TF1_None")), out, quiet)  # the same windows, each for the other factor
    assert run(asked(("X_TF1_None", "X_TF2_None")), out, quiet).equals(table)
    other = run(asked(("X_TF2_None", "X_TF1_None")), toy_files / "other", quiet)
    assert not np.allclose(other["mean"], table["mean"])
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({k: v for k, v in record.items() if k not in ("exposures_of_windows_sha256", "output")}))
    (out / "SHA256SUMS").unlink()
    run(asked(("X_TF1_None", "X_TF2_None")), out, quiet)  # an older version's record


def test_a_model_that_calls_its_outputs_something_else_is_another_run(toy_files):
    def made(output):
        return adapt(toy_model().module, list(toy_model().labels), 120, output=output)

    out = toy_files / "run"
    run(toy_experiment(made("logit"), toy_files), out, quiet)
    with pytest.raises(InputError, match=r"holds another run \(it differs in .*output\)"):
        run(toy_experiment(made("probability"), toy_files), out, quiet)


def test_rounding_and_older_records_are_no_other_model(toy, toy_files):
    e, out = toy_experiment(toy, toy_files), toy_files / "run"
    run(e, out, quiet)
    record = json.loads((out / "run.json").read_text())
    seen = np.frombuffer(base64.b64decode(record["model_probe"]), "<f4")
    assert seen.size == 3 * 4 * 3 and np.isfinite(seen).all()
    for probe, same in ((seen * np.float32(1 + 1e-6), True), (seen * np.float32(1.01), False), (seen[:-3], False)):
        (out / "run.json").write_text(json.dumps(record | {"model_probe": base64.b64encode(probe.tobytes()).decode()}))
        (out / "SHA256SUMS").unlink(missing_ok=True)
        if same:
            run(e, out, quiet)
        else:
            with pytest.raises(InputError, match="what the model predicts"):
                run(e, out, quiet)
    for strange in ("", "=", None, 3, [], "é"):
        (out / "run.json").write_text(json.dumps(record | {"model_probe": strange}))
        with pytest.raises(InputError, match="what the model predicts"):
            run(e, out, quiet)
    (out / "run.json").write_text(json.dumps({k: v for k, v in record.items() if k != "model_probe"}))
    run(e, out, quiet)


def test_processes_that_find_other_code_are_refused(code, toy_files, monkeypatch):
    p = plan(toy_experiment("torch:own_code:load", toy_files, windows=8), quiet)
    monkeypatch.setenv("CHANGE", "alphabet")
    with pytest.raises(InputError, match="found other predictions under the name torch:own_code:load, expected those of the process that asked"):
        run(p, toy_files / "run", quietly(workers=2))


def test_the_record_holds_hashes_of_what_was_read(named, toy, toy_files):
    run(replace(named, model=f"{named.model}, {named.model}", draws=None), toy_files / "run", quiet)
    record = json.loads((toy_files / "run" / "run.json").read_text())
    digest = {name: hashlib.sha256((toy_files / name).read_bytes()).hexdigest() for name in ("g.fa", "sites.bed", "toy.safetensors")}
    assert (record["genome_sha256"], record["regions_sha256"], record["weights_sha256"]) == (
        digest["g.fa"], digest["sites.bed"], [digest["toy.safetensors"]] * 2)
    run(toy_experiment(toy, toy_files), toy_files / "object", quiet)
    assert json.loads((toy_files / "object" / "run.json").read_text())["weights_sha256"] == []


@given(st.lists(st.text(max_size=30) | st.from_regex(r"(chr|CHR|Chr)?[abAB_:.]{1,3}[:_]?[0-9]{1,2}-[0-9]{1,2}", fullmatch=True),
                unique=True, max_size=30))
def test_no_two_names_share_a_file(names):
    stems = [file_stem(name) for name in names]
    assert len({s.casefold() for s in stems}) == len(names)  # also where the file system does not tell upper from lower case
    assert all(re.fullmatch(r"[A-Za-z0-9_~][A-Za-z0-9._~-]{,130}", s) for s in stems)


ODD = ["chr1:0-120", "chr1_0-120", "chr1 0-120", "chr1:0-120 ", "a/b", "a\\b", "..", "HLA-A*01:01", "HLA-A*01_01", "\u67d3:1-2", "x" * 300,
       "nl\u2028x"]


def test_windows_of_any_name_are_kept_apart(toy, toy_files):
    p = random_plan(toy, toy_files, len(ODD))
    p = replace(p, windows=p.windows.assign(name=ODD))
    run(p, toy_files / "run", quiet)
    assert len(list((toy_files / "run" / "effects").iterdir())) == len(ODD) == status(toy_files / "run")["done"]
    local = read_local(toy_files / "run")
    assert set(local.window) == set(ODD) and len(read_slopes(toy_files / "run").windows) == len(ODD)
    for name in ODD:
        assert open_effects(toy_files / "run", name).window.item() == name
    run(p, toy_files / "run", quietly(progress=lambda *a: pytest.fail("all was done")))


def test_files_that_an_earlier_version_named_are_read_and_kept(toy, toy_files):
    p, out = random_plan(toy, toy_files, 3), toy_files / "run"
    p = replace(p, windows=p.windows.assign(name=["evolved:X_TF1_None:0", "evolved:X TF1:1", "evolved:X_TF1:1"]))
    run(p, out, quiet)
    before, sums = table1(out), (out / "SHA256SUMS").read_text()
    for name in p.windows.name[:2]:
        older = re.sub(r"[^A-Za-z0-9._-]+", "_", name)
        for folder, end in (("effects", "nc"), ("local", "json")):
            (out / folder / f"{file_stem(name)}.{end}").rename(out / folder / f"{older}.{end}")
        sums = sums.replace(file_stem(name), older)
    (out / "SHA256SUMS").write_text(sums)
    assert status(out)["done"] == 3 and len(read_slopes(out).windows) == 3
    for name in p.windows.name:
        assert open_effects(out, name).window.item() == name
    pd.testing.assert_frame_equal(table1(out), before)
    run(p, out, quietly(progress=lambda *a: pytest.fail("all was done")))
    (out / "SHA256SUMS").unlink()
    assert len(read_slopes(out).windows) == status(out)["done"] == 3


def test_labels_and_chromosomes_that_are_numbers_stay_text(toy, toy_files):
    (toy_files / "g.fa").write_text((toy_files / "g.fa").read_text().replace("chr1", "01"))
    (toy_files / "sites.bed").write_text((toy_files / "sites.bed").read_text().replace("chr1", "01"))
    for labels, exposures in ((("001", "0", "1.10"), ("001",)), (("001", "0", "1.10"), ("0", "001")), (("1e5", "NA", "nan"), ("NA", "1e5"))):
        model, out = SequenceModel(toy.module, labels, 120, "numbers"), toy_files / "-".join(exposures)
        table = run(toy_experiment(model, toy_files, exposures=exposures, outcome=labels[2]), out, quiet)
        assert tuple(table.exposure) == exposures == tuple(json.loads((out / "run.json").read_text())["experiment"]["exposures"])
        assert set(read_local(out).exposure) == set(exposures) and set(pd.read_parquet(out / "local_effects.parquet").exposure) == set(exposures)
        assert set(read_local(out).chrom) == {"01"} == set(read_slopes(out).windows.chrom)
        assert tuple(directions(out).exposure) == exposures and set(effect_matrix(out).cause) == {*exposures, labels[2]}
        assert tuple(open_effects(out, read_local(out).window[0]).exposure.values) == exposures
        assert set(direct_effects(out).get("exposure", ())) == (set(exposures) if len(exposures) > 1 else set())


@pytest.mark.parametrize("answer", ["EBADF", "ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def test_a_file_system_without_locks_is_named_and_used(toy, toy_files, monkeypatch, answer):
    def flock(file, how):
        raise OSError(getattr(errno, answer), os.strerror(getattr(errno, answer)))

    run(toy_experiment(toy, toy_files), toy_files / "whole", quiet)
    monkeypatch.setattr("fcntl.flock", flock)
    said = []
    run(toy_experiment(toy, toy_files), toy_files / "run", Execution(announce=said.append))
    assert [line for line in said if "has no locks" in line and "start no second run there" in line]
    assert content(toy_files / "run") == content(toy_files / "whole")


def test_locks_of_nfs(toy, toy_files, monkeypatch):
    "The kernel makes flock on NFS a lock of the bytes of a file, for which an exclusive one must be open for writing."
    monkeypatch.setattr("fcntl.flock", fcntl.lockf)
    said = []
    run(toy_experiment(toy, toy_files), toy_files / "run", Execution(announce=said.append))
    assert not any("locks" in line for line in said)

    def held(file, how):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("fcntl.flock", held)
    with pytest.raises(InputError, match="in use by another run"):
        run(toy_experiment(toy, toy_files), toy_files / "run", quiet)


@pytest.mark.parametrize("reason", ["EROFS", "EACCES"])
def test_a_place_that_can_only_be_read_is_one_sentence(toy, toy_files, monkeypatch, reason):
    e, out, write = toy_experiment(toy, toy_files), toy_files / "run", Path.write_bytes
    run(e, out, quiet)

    def refused(path, data):
        raise OSError(getattr(errno, reason), os.strerror(getattr(errno, reason)))

    monkeypatch.setattr(Path, "write_bytes", refused)
    for place in (out, toy_files / "new"):
        with pytest.raises(InputError, match=r"out: .* cannot be written \((Read-only file system|Permission denied)\)"):
            run(e, place, quiet)
    monkeypatch.setattr(Path, "write_bytes", write)
    assert len(table1(out)) == 2


def test_places_of_any_name(named, toy_files):
    place = toy_files / "-two words \u65e5\u672c\u8a9e \u2602 caf\u00e9 'quoted' \"$HOME\" #1%\n"
    place.mkdir()
    for file in ("g.fa", "sites.bed", "toy.safetensors"):
        shutil.copy(toy_files / file, place / file)
    there = replace(named, model=str(place / "toy.safetensors"), genome=str(place / "g.fa"), regions=str(place / "sites.bed"), draws=3)
    run(there, place / "run \u03b1", quietly(workers=2))
    run(replace(named, draws=3), toy_files / "plain", quietly(workers=1))
    assert content(place / "run \u03b1") == content(toy_files / "plain")


UNGUARDED = """
from deepmr.core import Execution
from deepmr.experiment import Experiment
from deepmr.pipeline import run
print(len(run(Experiment(model={model!r}, outcome="X_DNase_None", regions={regions!r}, genome={genome!r}, windows=8, draws=4), {out!r},
    Execution(workers=2))), "rows")
"""


@pytest.mark.long
def test_a_script_without_the_guard_is_told_of_it(named, toy_files):
    out = toy_files / "run"
    script = UNGUARDED.format(model=named.model, regions=named.regions, genome=named.genome, out=str(out))
    (toy_files / "script.py").write_text(script)
    for how in ({"args": [sys.executable, "script.py"]}, {"args": [sys.executable, "-"], "input": script}):
        done = subprocess.run(**how, cwd=toy_files, capture_output=True, text=True, timeout=120)
        last = done.stderr.splitlines()[-1]
        assert done.returncode == 1 and "InputError: workers: found" in last and 'if __name__ == "__main__":' in last, done.stderr
        assert "in use by another run" not in done.stderr and "out of memory" not in done.stderr
        assert status(out)["windows"] == 8 and status(out)["done"] == 0
    (toy_files / "script.py").write_text('if __name__ == "__main__":' + script.replace("\n", "\n    "))
    done = subprocess.run([sys.executable, "script.py"], cwd=toy_files, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "2 rows" in done.stdout, done.stderr


STOPPED = """
import sys; sys.path.insert(0, {tests!r})
from pathlib import Path
from conftest import toy_experiment
from deepmr.core import Execution
from deepmr.pipeline import run
if __name__ == "__main__":
    run(toy_experiment({model!r}, Path({files!r}), windows=8, draws=20_000, engine={engine!r}), {out!r},
        Execution(workers={workers}, announce=lambda line: None))
"""


@pytest.mark.long
@pytest.mark.parametrize("workers, engine", [(1, "auto"), (1, "naive"), (2, "auto")])
def test_ctrl_c_ends_a_run_soon_and_says_how_to_go_on(named, toy_files, workers, engine):
    out = toy_files / "run"
    values = dict(tests=str(Path(__file__).parent), files=str(toy_files), out=str(out), model=named.model, workers=workers, engine=engine)
    (toy_files / "script.py").write_text(STOPPED.format(**values))
    child = subprocess.Popen([sys.executable, str(toy_files / "script.py")], stderr=subprocess.PIPE, text=True, start_new_session=True,
                             preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))  # a shell's background ignores it
    children = []
    while child.poll() is None and (not (out / "SHA256SUMS").exists() or len(children) < (workers > 1) * workers):
        time.sleep(0.05)
        children = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    time.sleep(2)  # in the middle of the first windows
    begin = time.monotonic()
    os.killpg(child.pid, signal.SIGINT)
    said = child.communicate(timeout=60)[1]
    took = time.monotonic() - begin
    assert said.splitlines()[-1] == f"KeyboardInterrupt: stopped; finished windows are kept in {out}, and the same call goes on from there", said
    assert took < 3 * max(1, os.getloadavg()[0] / os.cpu_count()) and said.count("Traceback") == 1, (took, said)
    assert not [c for c in children if Path(f"/proc/{c}/cmdline").exists() and Path(f"/proc/{c}/cmdline").read_bytes()]
    assert status(out)["windows"] == 8


def test_an_experiment_of_an_older_version_is_continued(toy, toy_files):
    e, out = toy_experiment(toy, toy_files), toy_files / "run"
    run(e, out, quiet)
    record = json.loads((out / "run.json").read_text())
    del record["experiment"]["keep_draws"]
    (out / "run.json").write_text(json.dumps(record))
    (out / "SHA256SUMS").unlink()
    assert len(table1(out)) == 2 and len(read_slopes(out).windows) == status(out)["done"]  # read as it is
    run(e, out, quiet)
    with pytest.raises(InputError, match="differs in keep_draws"):
        run(replace(e, keep_draws=True), out, quiet)


def test_draws_are_kept_on_request(toy, toy_files):
    e = toy_experiment(toy, toy_files)
    run(e, toy_files / "run", quiet), run(replace(e, keep_draws=True), toy_files / "kept", quiet)
    assert (toy_files / "run" / "table1.csv").read_bytes() == (toy_files / "kept" / "table1.csv").read_bytes()
    window = read_local(toy_files / "run").window[0]
    data = open_effects(toy_files / "kept", window)
    assert data.draws_x.dtype == np.float32 and data.draws_x.sizes["draw"] == 6
    np.testing.assert_allclose(data.draws_x.mean("draw"), data.bx, rtol=1e-4, atol=1e-7)
    p, kept = plan(e, quiet), plan(replace(e, keep_draws=True), quiet)
    used = sum(f.stat().st_size for f in (toy_files / "kept").rglob("*") if f.is_file())
    assert disk_needed(p) < disk_needed(kept) and used < disk_needed(kept)


def test_neither_order_nor_engine_nor_threads_matter(toy, toy_files):
    p = plan(toy_experiment(toy, toy_files), quiet)
    back = replace(p, windows=p.windows.iloc[::-1].reset_index(drop=True), codes=p.codes[::-1])
    run(p, toy_files / "run", quietly(workers=1)), run(back, toy_files / "back", quietly(workers=3))
    assert {k: v for k, v in content(toy_files / "run").items() if k != "windows.bed"} == {
        k: v for k, v in content(toy_files / "back").items() if k != "windows.bed"}
    plain = run(toy_experiment(toy, toy_files, engine="naive"), toy_files / "plain", quietly(workers=1))
    table = table1(toy_files / "run")  # rounding decides which effects are exactly zero, and with them which positions are drawn again
    assert ((plain["mean"] - table["mean"]).abs() < 0.02 * table.se).all()
    slopes = [read_local(toy_files / name).query("method == 'bootstrap'").estimate for name in ("plain", "run")]
    np.testing.assert_allclose(*slopes, rtol=1e-3, atol=1e-4)
    for window in p.windows.name:
        np.testing.assert_allclose(open_effects(toy_files / "plain", window).bx, open_effects(toy_files / "run", window).bx, atol=1e-5)


def random_plan(toy, toy_files, windows):
    p = plan(toy_experiment(toy, toy_files, draws=3), quiet)
    frame = pd.DataFrame({"name": [f"r:{i}" for i in range(windows)], "chrom": "r", "start": 0, "end": 120})
    frame["exposures"] = [p.exposures] * windows
    return replace(p, windows=frame, codes=np.random.default_rng(0).integers(0, 4, (windows, 120)).astype(np.int8))


def test_memory_does_not_grow_with_the_windows(toy, toy_files):
    run(random_plan(toy, toy_files, 2), toy_files / "warm", quietly(workers=1))
    peaks, sizes = {}, {}
    for windows in (3, 30):
        p = random_plan(toy, toy_files, windows)
        tracemalloc.start()
        run(p, toy_files / str(windows), quietly(workers=1))
        peaks[windows] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        sizes[windows] = sum(f.stat().st_size for f in (toy_files / str(windows)).glob("*/*"))
    grown, written = (peaks[30] - peaks[3]) / 27, (sizes[30] - sizes[3]) / 27
    assert grown < 15_000 < written, (grown, written)  # bytes a window: records and names, not effects


class Slow(Executor):
    "Counts what is out."

    def __init__(self):
        self.out, self.most = [], 0

    def submit(self, call, *args):
        self.out.append(Future())
        self.most = max(self.most, sum(not f.done() for f in self.out))
        threading.Timer(0.1, self.out[-1].set_result, args).start()
        return self.out[-1]


def test_no_more_windows_are_out_than_there_is_room_for():
    slow = Slow()
    assert sorted(bounded_map(slow, str, iter(range(20)), lambda: 4)) == list(range(20)) and slow.most == 4


@pytest.mark.parametrize("left", [(), ("effects",), ("effects", "local", "figures"), ("effects", "local", "figures", "windows.bed")])
def test_a_run_killed_before_it_began_can_begin(toy, toy_files, left):
    out = toy_files / "run"
    out.mkdir()
    for name in left:
        (out / name).write_text("chr1") if name.endswith("bed") else (out / name).mkdir()
    (out / ".run.json.12.part").write_text("{")
    run(toy_experiment(toy, toy_files), out, quiet)
    whole = run(toy_experiment(toy, toy_files), toy_files / "whole", quiet)
    assert (out / "table1.csv").read_bytes() == (toy_files / "whole" / "table1.csv").read_bytes() and len(whole) == 2
    assert not list(out.glob("**/*.part"))


def test_a_full_disk_is_found_before_anything_is_written(toy, toy_files, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda place: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    with pytest.raises(InputError, match=r"found 0 MB free at .*, expected at least"):
        run(toy_experiment(toy, toy_files), toy_files / "run", quiet)
    assert not (toy_files / "run").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"experiment": 3}', "\x00\x01"])
def test_a_damaged_record_is_named(toy, toy_files, text):
    out = toy_files / "run"
    run(toy_experiment(toy, toy_files), out, quiet)
    (out / "run.json").write_text(text)
    for attempt in (lambda: run(toy_experiment(toy, toy_files), out, quiet), lambda: table1(out), lambda: status(out), lambda: read_slopes(out)):
        with pytest.raises(InputError, match=r"run.json is damaged"):
            attempt()


def test_status_of_a_run(toy, toy_files):
    out = toy_files / "run"

    def stop(done, total, window):
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(toy_experiment(toy, toy_files), out, quietly(progress=stop))
    shown = CliRunner().invoke(app, ["status", str(out)])
    windows = len((out / "windows.bed").read_text().splitlines())
    assert shown.exit_code == 0 and f"1 of {windows} windows done" in shown.output and "not finished" in shown.output
    run(toy_experiment(toy, toy_files), out, quiet)
    assert f"{windows} of {windows} windows done" in CliRunner().invoke(app, ["status", str(out)]).output
    assert CliRunner().invoke(app, ["status", str(toy_files)]).exit_code == 2


def test_both_protocols_from_one_run(toy, toy_files):
    run(toy_experiment(toy, toy_files), toy_files / "run", quiet)
    for name, protocol in SPREAD.items():
        table = table1(toy_files / "run", name)
        assert set(table.protocol) == {name} and np.isfinite(table["mean"]).all()
        local = read_local(toy_files / "run")
        rows = local[(local.method == protocol.method) & (local.exposure == table.exposure[0])]
        assert table.n_windows[0] == len(rows) == 3
    egger, boot = (read_local(toy_files / "run").query("method == @m").se.mean() for m in ("egger", "bootstrap"))
    assert egger != boot


def test_a_protocol_by_its_older_name(toy, toy_files):
    e, out = toy_experiment(toy, toy_files, protocol="windows"), toy_files / "run"
    table = run(e, out, quiet)
    assert set(table.protocol) == {"windows-only"}
    pd.testing.assert_frame_equal(table1(out, "windows"), table)
    record = json.loads((out / "run.json").read_text())
    assert record["experiment"]["protocol"] == "windows-only"
    record["experiment"]["protocol"] = "windows"  # as an earlier version wrote it
    (out / "run.json").write_text(json.dumps(record))
    (out / "SHA256SUMS").unlink()
    for name in ("windows", "windows-only"):
        pd.testing.assert_frame_equal(run(replace(e, protocol=name), out, quiet), table)
    with pytest.raises(InputError, match="differs in protocol"):
        run(replace(e, protocol="reml"), out, quiet)


def test_what_stands_by_its_place_in_an_experiment(toy, toy_files):
    e = toy_experiment(toy, toy_files, exposures=("X_TF1_None",))
    assert Experiment(toy, ("X_TF1_None",), "X_DNase_None", e.regions, e.genome, 3, 6, seed=1) == e
    with pytest.raises(TypeError, match="positional"):
        Experiment(toy, ("X_TF1_None",), "X_DNase_None", e.regions, e.genome, 3, 6, "masks")
    with pytest.raises(InputError, match=r"exposures: found the text '01', expected labels in a tuple: \('01',\)"):
        plan(Experiment(toy, "01", "X_DNase_None", e.regions, e.genome), quiet)
    table = run(e, toy_files / "run", quiet, workers=2)
    pd.testing.assert_frame_equal(run(e, toy_files / "again", quietly(workers=1)), table)
    with pytest.raises(InputError, match="workers: found 0, expected a whole number of at least 1"):
        run(e, toy_files / "none", quiet, workers=0)
    assert not (toy_files / "none").exists()


def test_what_used_to_stand_by_its_place_is_refused(toy, toy_files):
    for call in (lambda: run(toy_experiment(toy, toy_files), toy_files / "run", "cpu"), lambda: plan(toy_experiment(toy, toy_files), "cpu")):
        with pytest.raises(InputError, match=r"execution: found 'cpu', expected an Execution, for example Execution\(workers=2\)"):
            call()
    with pytest.raises(InputError, match="workers: found 0, expected a whole number of at least 1"):
        run(toy_experiment(toy, toy_files), toy_files / "run", quietly(workers=0))
    assert not (toy_files / "run").exists()


def test_an_ensemble_is_advised_of_the_median_and_gets_it(toy_files):
    experiment = toy_experiment(Ensemble([toy_model(seed=s) for s in range(3)]), toy_files, draws=None, protocol="masks")
    assert any("compare --protocol median" in str(note) and "3 members" in str(note) for note in plan(experiment, quiet).notes)
    assert not any("median" in str(note) for note in plan(replace(experiment, protocol="median"), quiet).notes)
    out = toy_files / "run"
    run(experiment, out, quiet)
    local = read_local(out)
    for row in local[local.method == "weighted median"].itertuples():  # from the window's file, by hand
        data = open_effects(out, row.window).sel(exposure=row.exposure).isel(window=0)
        bx, bxse, by, byse = (data[k].values.ravel().astype(float) for k in ("bx", "bxse", "by", "byse"))
        seen = np.isfinite(bx) & ((bx != 0) | (by != 0))  # no reference bases
        far = np.abs(bx[seen] - bx[seen].mean()) > bx[seen].std()
        e = weighted_median(*(v[seen][far] for v in (bx, bxse * 3**.5, by, byse * 3**.5)), n_boot=200)
        assert row.estimate == pytest.approx(e.estimate, rel=1e-4) and row.n == e.n and 0 < row.se < np.inf
    members = [local[local.method == m].draw_slopes for m in ("bootstrap", "weighted median")]
    assert all(len(v) == 3 and list(v) == list(w) for v, w in zip(*members, strict=True))
    tables = [table1(out, p) for p in ("masks", "median")]
    assert np.isfinite(tables[1]["mean"]).all() and (tables[1].se_network > 0).all() and (tables[0]["mean"] != tables[1]["mean"]).all()


def test_a_run_from_before_the_median_is_read_without_it(toy, toy_files, monkeypatch):
    with monkeypatch.context() as m:
        m.delitem(LOCAL_ESTIMATORS, "weighted median")
        run(toy_experiment(toy, toy_files), toy_files / "run", quiet)
    for begun_anew in (False, True):
        if begun_anew:  # a window that was lost is done again, by this version
            next((toy_files / "run").glob("local/*.json")).unlink()
            run(toy_experiment(toy, toy_files), toy_files / "run", quiet)
        with pytest.raises(InputError, match=r"run: found windows without local estimates by weighted median in .*, expected a run of this version"):
            table1(toy_files / "run", "median")
        assert set(compare(toy_files / "run").columns.unique(0)) == set(SPREAD) - {"median"}
    assert read_local(toy_files / "run").method.eq("weighted median").any()


def test_a_file_is_the_same_bytes_while_frames_are_looked_at(toy, toy_files):
    "The profiler of Dask's workers does so: it keeps objects of HDF5 open for a while, and then they lie in another order in the file."
    run(toy_experiment(toy, toy_files, windows=1), toy_files / "run", quiet)
    data = open_effects(toy_files / "run", read_local(toy_files / "run").window[0])
    here, done = threading.get_ident(), threading.Event()

    def look():
        while not done.is_set():
            frame, held = sys._current_frames()[here], []
            while frame is not None:
                held.append(frame)
                frame = frame.f_back
            done.wait(0.002)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        made = {netcdf_bytes(data) for _ in range(20)}
    finally:
        done.set()
        watcher.join()
    assert made == {netcdf_bytes(data)}


def test_matrix_directions_and_protocols_tell_the_same_story(toy, toy_files):
    out = toy_files / "run"
    table = run(toy_experiment(toy, toy_files, draws=20), out, quiet)
    s = read_slopes(out)
    windows, labels = s.windows, s.labels
    local = read_local(out).query("method == 'bootstrap'")
    for row in local.itertuples():  # the slope of a pair is the local estimate of masks
        w, x = windows.index[windows.name == row.window][0], labels.index(row.exposure)
        assert s.estimate[w, x, -1] == pytest.approx(row.estimate, rel=1e-3, abs=1e-4)
        assert s.se[w, x, -1] == pytest.approx(row.se, rel=0.5)
        np.testing.assert_allclose(s.draws[w, :, x, -1], row.draw_slopes, rtol=1e-3, atol=1e-4)
    way, matrix = directions(out), effect_matrix(out, "holm")
    assert way.n_windows.tolist() == table.n_windows.tolist() and len(matrix) == 6
    for row in way.itertuples():
        pair = matrix[(matrix.cause == row.exposure) & (matrix.effect == "X_DNase_None")].iloc[0]
        assert pair["mean"] == row.forward and pair.ci_low == row.forward_low
        assert 0 <= row.r2 <= 1 and 0 <= row.steiger_forward <= 1
    assert (matrix.q >= matrix.p).all() and (matrix.q <= 1).all()
    side = compare(out)
    for name in SPREAD:
        np.testing.assert_array_equal(side[name]["mean"], table1(out, name)["mean"])
    assert local.noise_correlation.between(-1, 1).all() and {"residual_se", "share_z2_x", "mean_f"} <= set(table.columns)


def test_direct_effects_are_those_of_a_joint_regression(toy, toy_files):
    run(toy_experiment(toy, toy_files, draws=20), out := toy_files / "run", quiet)
    direct, local = direct_effects(out), read_local(out).query("method == 'bootstrap'").set_index(["window", "exposure"]).estimate
    x, z = "X_TF1_None", "X_TF2_None"
    assert set(direct.given) == {x, z} and len(direct) == len(local)
    for row in direct.itertuples():
        assert row.total == pytest.approx(local[row.window, row.exposure], rel=1e-3, abs=1e-4)
        e = open_effects(out, row.window).isel(window=0)
        two = np.stack([e.bx.sel(exposure=k).values.ravel() for k in (row.exposure, z if row.exposure == x else x)], 1)
        by, seen = e.by.values.ravel(), np.isfinite(two).all(1) & (e.byse.values.ravel() > 0) & (e.bxse.values.reshape(2, -1) > 0).all(0)
        assert row.direct == pytest.approx(np.linalg.lstsq(two[seen], by[seen], rcond=None)[0][0], rel=1e-3)
        assert row.se > 0 and row.conditional_f > 0


@pytest.mark.long
def test_protocols_and_directions_on_the_command_line(hg19, tmp_path):
    options = ["table1", "--exposures", "HepG2_CTCF_None,HepG2_HNF4A_None", "--windows", "2", "--draws", "4", "--protocol", "masks,paper",
               "--directions", "--out", str(tmp_path / "run"), "--genome", str(hg19 / "hg19_segments.fa.gz")]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0, done.output
    assert "the same draws under each protocol" in done.stdout and "reverse" in done.stdout
    assert len(pd.read_csv(tmp_path / "run" / "directions.csv")) == 2
    pairs = CliRunner().invoke(app, ["matrix", str(tmp_path / "run"), "--correction", "fdr_bh"])
    assert pairs.exit_code == 0, pairs.output
    assert len(pd.read_csv(tmp_path / "run" / "effect_matrix.csv")) == 6
    assert (tmp_path / "run" / "figures" / "effect_matrix.png").stat().st_size > 5000
    wrong = CliRunner().invoke(app, ["matrix", str(tmp_path / "run"), "--correction", "none"])
    assert wrong.exit_code == 2 and "expected one of fdr_by" in wrong.stderr


def test_effects_on_disk_are_those_of_mutation_effects(toy, toy_files):
    from deepmr.effects import mutation_effects
    p = plan(toy_experiment(toy, toy_files), quiet)
    run(p, toy_files / "run", quiet)
    name = p.windows.name[1]
    direct = mutation_effects(toy, p.x[[1]], list(p.exposures), "X_DNase_None", 6, 1, windows=["any"], same_masks=True)
    saved = open_effects(toy_files / "run", name)
    for v in ("bx", "bxse", "by", "byse", "bxby_cov"):
        np.testing.assert_array_equal(saved[v], direct[v])


def test_another_run_in_the_directory_is_not_touched(toy, toy_files):
    run(toy_experiment(toy, toy_files), toy_files / "run", quiet)
    before = (toy_files / "run" / "table1.csv").read_bytes()
    with pytest.raises(InputError, match="differs in seed"):
        run(toy_experiment(toy, toy_files, seed=2), toy_files / "run", quiet)
    lines = (toy_files / "g.fa").read_text().splitlines()
    (toy_files / "g.fa").write_text(f"{lines[0]}\n{lines[1][::-1]}\n")
    with pytest.raises(InputError, match="windows_sha256"):
        run(toy_experiment(toy, toy_files), toy_files / "run", quiet)
    assert (toy_files / "run" / "table1.csv").read_bytes() == before


def test_the_default_experiment_is_all_factors_on_dnase_on_held_out_chromosomes():
    p = plan(Experiment(), quiet)
    assert p.source == "genomic windows, hg19 that ships with deepmr"
    assert len(p.exposures) > 300 and len(p.decoys) == 24 and set(p.windows.chrom) == {"chr8", "chr9", "chr22"}
    assert not set(p.exposures) & set(p.decoys) and p.protocol.name == "default" and p.draws == 5
    labels = dict(zip(read_windows().name, read_windows().labels))
    drawn = pd.Series([e for w in p.windows.exposures for e in w]).value_counts()
    assert all(e in labels[n] for n, es in zip(p.windows.name, p.windows.exposures) for e in es) and drawn.max() == 25


@pytest.mark.long
@pytest.mark.parametrize("change", [{}, {"seed": 3}, {"windows": 60}])
def test_the_sequence_that_ships_is_what_the_genome_gives(hg19, change):
    ours, theirs = (plan(Experiment(genome=genome, **change), quiet) for genome in (None, str(hg19 / "hg19_segments.fa.gz")))
    pd.testing.assert_frame_equal(ours.windows, theirs.windows)
    np.testing.assert_array_equal(ours.codes, theirs.codes)


def test_an_exposure_without_a_window_is_left_out_only_where_none_was_named(toy):
    def ask(*labels, **change):
        return plan(Experiment(model=SequenceModel(toy.module, [*labels, "HepG2_DNase_None"], 120, "toy"), windows=2, draws=2, **change), quiet)

    p = ask("HepG2_CTCF_None", "HepG2_nowhere_None")
    assert p.exposures == ("HepG2_CTCF_None",) and codes(p.notes) == ("no_windows",) and "HepG2_nowhere_None" in p.notes[0].sentence
    with pytest.raises(InputError, match="found no window bound by HepG2_nowhere_None"):
        ask("HepG2_CTCF_None", "HepG2_nowhere_None", exposures=("HepG2_CTCF_None", "HepG2_nowhere_None"))
    with pytest.raises(InputError, match="found no window bound by HepG2_neither_None in the windows that ship"):
        ask("HepG2_nowhere_None", "HepG2_neither_None")


def test_table1_command_on_real_windows(hg19, tmp_path):
    options = ["table1", "--exposures", "HepG2_CTCF_None", "--windows", "2", "--out", str(tmp_path / "run"),
               "--genome", str(hg19 / "hg19_segments.fa.gz")]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0] == "windows: genomic windows, from hg19_segments.fa.gz"
    table = pd.read_csv(tmp_path / "run" / "table1.csv")
    assert list(table.columns[:9]) == ["exposure", "mean", "se", "ci_low", "ci_high", "training_low", "training_high", "n_windows", "protocol"]
    assert table.n_windows[0] == 2 and np.isfinite(table["mean"][0])
    assert {f.name for f in (tmp_path / "run" / "figures").iterdir()} >= {"forest.png", "forest.pdf", "mutation_map.png"}
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["experiment"]["seed"] == 0 and len(record["model_sha256"]) == 64 and "torch" in record["versions"]


@pytest.mark.long
def test_without_sequence_and_network_windows_are_evolved_and_called_so(tmp_path, monkeypatch):
    monkeypatch.setattr("deepmr.regions.shipped_bases", lambda *where: None)
    done = CliRunner().invoke(app, ["table1", "--exposures", "HepG2_CTCF_None", "--windows", "1", "--draws", "2", "--out",
                                    str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0].startswith("windows: EVOLVED windows") and "not genomic" in done.stdout
    assert "UCSC did not answer" in done.stderr
    assert set(read_local(tmp_path / "run").chrom) == {"evolved"}


def test_own_regions_without_any_genome_are_an_error_not_evolved(tmp_path):
    (tmp_path / "mine.bed").write_text("chr9\t5000\t6000\n")
    done = CliRunner().invoke(app, ["table1", "--regions", str(tmp_path / "mine.bed"), "--out", str(tmp_path / "run")])
    assert done.exit_code == 2 and "expected --genome FASTA" in done.stderr and not (tmp_path / "run").exists()


OWN_MODEL = """
import torch
from conftest import toy_model
from deepmr.networks import SequenceModel
load = toy_model
def still():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(480, 3))
    return SequenceModel(net, toy_model().labels, 120, "still")
"""


def own_model(monkeypatch, folder):
    (folder / "own_model.py").write_text(OWN_MODEL)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "own_model", raising=False)
    return ["--outcome", "X_DNase_None", "--regions", str(folder / "sites.bed"), "--genome", str(folder / "g.fa")]


def test_own_model_by_name_from_the_command_line(monkeypatch, toy, toy_files):
    options = own_model(monkeypatch, toy_files)
    done = CliRunner().invoke(app, ["table1", "--model", "torch:own_model:load", *options, "--windows", "3", "--draws", "6",
                                    "--seed", "1", "--protocol", "paper", "--out", str(toy_files / "run")])
    assert done.exit_code == 0, done.output
    direct = run(toy_experiment(toy, toy_files, protocol="paper"), toy_files / "direct", quiet)
    assert (toy_files / "run" / "table1.csv").read_bytes() == (toy_files / "direct" / "table1.csv").read_bytes()
    assert set(direct.protocol) == {"paper"}


def test_model_without_dropout_from_the_command_line(monkeypatch, toy_files):
    done = CliRunner().invoke(app, ["table1", "--model", "torch:own_model:still", "--protocol", "masks", *own_model(monkeypatch, toy_files),
                                    "--out", str(toy_files / "run")])
    assert done.exit_code == 2 and "found no active dropout layer" in done.stderr and not (toy_files / "run").exists()
    assert len(done.stderr.strip().splitlines()) == 1


def test_effects_command(monkeypatch, toy, toy_files):
    import xarray as xr

    from deepmr.effects import mutation_effects
    options = ["--exposures", "X_TF1_None,X_TF2_None", "--draws", "4", "--out", str(toy_files / "e.nc"), "--keep-draws"]
    done = CliRunner().invoke(app, ["effects", "--model", "torch:own_model:load", *own_model(monkeypatch, toy_files), *options])
    assert done.exit_code == 0, done.output
    saved = xr.load_dataset(toy_files / "e.nc", engine="h5netcdf")
    assert dict(saved.sizes) == {"exposure": 2, "window": 8, "position": 120, "alt": 4, "draw": 4}
    p = plan(toy_experiment(toy, toy_files, windows=8), quiet)
    direct = mutation_effects(toy, p.x, list(p.exposures), "X_DNase_None", 4, same_masks=True, windows=list(p.windows.name))
    np.testing.assert_array_equal(saved.bx.sel(window=direct.window), direct.bx)


def test_unwritable_place_is_one_sentence(toy, toy_files):
    (toy_files / "file").write_text("")
    with pytest.raises(InputError, match="out: "):
        run(toy_experiment(toy, toy_files), toy_files / "file" / "run", quiet)
    with pytest.raises(InputError, match="not a run of deepmr"):
        run(toy_experiment(toy, toy_files), toy_files / "file", quiet)


def test_help_does_not_import_torch():
    code = "import sys, deepmr.cli; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_default_model_is_what_it_says():
    model = load_model("hepg2")
    assert model.length == 1000 and "HepG2_DNase_None" in model.labels
    assert sum(k.startswith("HepG2_") for k in model.labels) >= 300 and len(model.members) == 5
    assert (ROOT / "deepmr" / "data" / "hepg2.safetensors").stat().st_size <= 20e6
    single, x = load_model("hepg2-single"), random_windows(2, 1000, seed=0)
    np.testing.assert_array_equal(single.predict(x), model.members[0].predict(x))
    assert single.labels == model.labels and not any("decoy" in e for e in default_exposures(model, "HepG2_DNase_None"))


def test_workers_beside_a_scheduler_are_refused(named, toy_files):
    with pytest.raises(InputError, match=r"^workers: found 2 beside a scheduler"):
        run(named, toy_files / "run", quietly(scheduler="tcp://127.0.0.1:9", workers=2))
    with pytest.raises(InputError, match=r"^workers: found 3 beside a scheduler"):
        run(named, toy_files / "run", quietly(scheduler="tcp://127.0.0.1:9"), workers=3)
    with pytest.raises(InputError, match=r"^scheduler: found 'tcp://127.0.0.1:9', expected none"):
        write_effects(replace(named, exposures=("X_TF1_None",)), toy_files / "e.nc", quietly(scheduler="tcp://127.0.0.1:9"))
    assert not (toy_files / "run").exists() and not (toy_files / "e.nc").exists()


@pytest.mark.parametrize("name", ["pipe", "device"])
def test_a_device_or_a_pipe_is_not_replaced_by_a_file(named, toy_files, name):
    special = toy_files / name
    try:
        os.mkfifo(special) if name == "pipe" else os.mknod(special, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")
    with pytest.raises(InputError, match=r"^out: found .*, a device or a pipe, expected the name of a file"):
        write_effects(replace(named, exposures=("X_TF1_None",), draws=None), special, quietly())
    assert not special.is_file()
