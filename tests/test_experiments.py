"""Experiment files: what they may say, the files they name, their windows, and the two commands."""
import hashlib
import http.server
import json
import re
import sys
import threading
from types import ModuleType

import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from typer.testing import CliRunner

from conftest import ROOT, toy_model
from deepmr.cli import app
from deepmr.core import InputError
from deepmr.experiment import plan
from deepmr.experiment_files import ExperimentFile, fetch_inputs, load_experiment, read_experiment
from deepmr.models import fetch
from deepmr.regions import Genome, is_bound, read_windows

TOML = """
model = "torch:own:load"
outcome = "X_DNase_None"
chromosomes = ["chr1"]
windows = 2
draws = 3
protocols = ["masks", "paper"]

[genome]
file = "g.fa"

[peaks]
X_TF1_None = { file = "tf1.bed" }
X_TF2_None = { file = "tf2.bed" }
"""


def invoke(*args):
    "Exit code, output and the lines on the error stream of a command."
    done = CliRunner().invoke(app, list(map(str, args)))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr.splitlines()


@pytest.fixture
def files(monkeypatch, toy_files):
    "An experiment on a toy model; peaks of one factor on the left half of the genome, of the other on the right."
    module = ModuleType("own")
    module.load = toy_model
    monkeypatch.setitem(sys.modules, "own", module)
    for name, starts in (("tf1", range(200, 1400, 200)), ("tf2", range(1500, 2700, 200))):
        (toy_files / f"{name}.bed").write_text("".join(f"chr1\t{s}\t{s + 150}\n" for s in starts))
    (toy_files / "e.toml").write_text(TOML)
    return toy_files


# --- what a file may say ----------------------------------------------------------------------------------------------

BAD = [
    ("outcome = ", "is not TOML"), ("\x00", "is not TOML"), ("outcome = 'a'\noutcome = 'b'", "is not TOML"),
    ("", "found no outcome, expected a label"), ("outcom = 'a'", "unknown key 'outcom'; did you mean outcome"),
    ("outcome = 'a'\nxyzzy = 1", "unknown key 'xyzzy', expected one of model, outcome"), ("outcome = 3", "outcome: found 3, expected a label"),
    ("outcome = 'a'\nwindows = 0", "windows: found 0, expected a whole number"), ("outcome = 'a'\nwindows = 2.5", "windows: found 2.5"),
    ("outcome = 'a'\nwindows = true", "windows: found True"),
    ("outcome = 'a'\ndraws = 1", "draws: found 1, expected a whole number of draws, at least 2"),
    ("outcome = 'a'\nseed = -1", "seed: found -1"), ("outcome = 'a'\nprotocols = []", "protocols: found"),
    ("outcome = 'a'\nprotocols = ['papr']", "found 'papr', expected a list of default, masks, windows-only, reml, paper, median"),
    ("outcome = 'a'\nexposures = 'b'", "exposures: found 'b', expected a list"), ("outcome = 'a'\nexposures = [1]", "exposures.0: found 1"),
    ("outcome = 'a'\npeaks = 3", "peaks: found 3"),
    ("outcome = 'a'\n[peaks]\nb = 'x.bed'", "peaks.b: found 'x.bed', expected a table with file or url"),
    ("outcome = 'a'\n[genome]\nulr = 'x'", "unknown key 'ulr'; did you mean url"),
    ("outcome = 'a'\n[genome]\nurl = 'ftp://x/y'", "genome.url: found 'ftp://x/y'"),
    ("outcome = 'a'\n[genome]\nurl = 'http://x/y'\nfile = 'y'", "genome: found both, expected either file or url"),
    ("outcome = 'a'\n[genome]\nfile = 'y'\nmd5 = 'ABC'", "genome.md5: found 'ABC', expected 32 hexadecimal digits"),
    ("outcome = 'a'\nexposures = ['b']\n[peaks]\nb = {file = 'x'}", "found both peaks and exposures"),
    ("outcome = 'a'\n[peaks]\nb = {file = 'x'}", "expected peaks, chromosomes and genome together"),
    ("outcome = 'a'\nchromosomes = ['chr1']", "expected peaks, chromosomes and genome together"),
]


@pytest.mark.parametrize("text, says", BAD, ids=range(len(BAD)))
def test_what_is_wrong_with_a_file_is_one_sentence(tmp_path, text, says):
    (tmp_path / "e.toml").write_text(text)
    for command in ("run", "fetch"):
        code, out, errors = invoke(command, tmp_path / "e.toml")
        assert (code, out, len(errors)) == (2, "", 1) and says in errors[0]


@pytest.mark.parametrize("name", ["none.toml", "", "x" * 300])
def test_a_file_that_is_not_there(tmp_path, name):
    code, _, errors = invoke("run", tmp_path / name)
    assert code == 2 and len(errors) == 1 and "expected a TOML file" in errors[0]


def toml(value) -> str:
    "A value as TOML writes it."
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=6)
PLAIN = TEXT | st.integers() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(["chr1", "paper", "hepg2", "http://127.0.0.1:9/x"])
INPUT = st.dictionaries(st.sampled_from(["file", "url", "md5", "sha256"]) | TEXT, PLAIN, max_size=3)
VALUE = PLAIN | st.lists(PLAIN, max_size=2) | INPUT | st.dictionaries(TEXT, INPUT, max_size=2)
KEYS = st.sampled_from(list(ExperimentFile.model_fields)) | TEXT


@settings(max_examples=300)
@given(st.dictionaries(KEYS, VALUE, max_size=5).map(lambda d: "\n".join(f"{json.dumps(k)} = {toml(v)}" for k, v in d.items()))
       | st.text(max_size=60) | st.binary(max_size=60))
def test_no_file_gives_a_traceback(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "replace"))
    code, _, errors = invoke("fetch", path)
    assert code in (0, 2) and len(errors) == (code == 2) and (code == 0 or errors[0].startswith("deepmr: "))


def test_paths_are_relative_to_the_file(tmp_path):
    inside = 'outcome = "a"\nmodel = "deepsea:w.pth,m.safetensors,kipoi-dir:k,deepsea:variantEffects,hepg2,torch:a:b"\n[genome]\nfile = "sub/g.fa"\n'
    (tmp_path / "e.toml").write_text(inside)
    e, d = read_experiment(tmp_path / "e.toml"), tmp_path
    assert e.model == f"deepsea:{d}/w.pth,{d}/m.safetensors,kipoi-dir:{d}/k,deepsea:variantEffects,hepg2,torch:a:b"
    assert e.genome.file == f"{d}/sub/g.fa"


@pytest.mark.parametrize("name", ["deepsea_hepg2", "hepg2"])
def test_the_experiments_of_the_project_are_well_formed(name):
    e = read_experiment(ROOT / "experiments" / f"{name}.toml")
    assert e.outcome == "HepG2_DNase_None"
    if name == "deepsea_hepg2":
        assert e.protocols == ["masks", "paper"] and e.draws == 50
        assert len(e.peaks) == 39  # 23 of Table 1 and the 16 of which the paper asked 13 more
        assert e.chromosomes == ["chr8", "chr9"] and e.windows == 25
        for label, source in e.peaks.items():  # every URL is of the label's own cell and factor
            assert f"hepg2{label.split('_')[1].replace('-', '')}".lower() in source.url.lower(), label


# --- the files it names -----------------------------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 4000  # about 1 MB


class Fragile(http.server.BaseHTTPRequestHandler):
    "Serves CONTENT; cuts the answer after `cut` bytes while that is set; knows ranges if `ranges` is set."
    cut, ranges, asked = None, True, []

    def do_GET(self):
        start = int(m[1]) if self.ranges and (m := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        self.asked.append(start)
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start:self.cut])

    def log_message(self, *args):
        pass


@pytest.fixture
def fragile():
    "The server's class, to be set up, and a URL on it."
    handler = type("Handler", (Fragile,), {"asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield handler, f"http://127.0.0.1:{httpd.server_port}/file.bin"
        httpd.shutdown()


RIGHT = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


@pytest.mark.parametrize("ranges, second", [(True, 4 * 65_536), (False, 0)])
def test_a_download_that_was_cut_off_goes_on(fragile, tmp_path, ranges, second):
    handler, url = fragile
    handler.cut, handler.ranges = 300_000, ranges
    with pytest.raises(InputError, match="it was cut off; run the same command to try again"):
        fetch(url, RIGHT, tmp_path / "f")
    assert not (tmp_path / "f").exists()
    handler.cut = None
    assert fetch(url, RIGHT, tmp_path / "f").read_bytes() == CONTENT
    assert handler.asked == [0, second] and [p.name for p in tmp_path.iterdir()] == ["f"]


def test_without_a_hash_a_download_begins_anew(fragile, tmp_path):
    handler, url = fragile
    handler.cut = 300_000
    with pytest.raises(InputError, match="it was cut off"):
        fetch(url, None, tmp_path / "f")
    assert list(tmp_path.iterdir()) == []
    handler.cut = None
    assert fetch(url, None, tmp_path / "f").read_bytes() == CONTENT and handler.asked == [0, 0]


def test_a_wrong_beginning_is_found_and_thrown_away(fragile, tmp_path):
    _, url = fragile
    part = tmp_path / f".f.{RIGHT[7:23]}.part"
    for beginning in (b"x" * 1000, b"x" * len(CONTENT)):  # the second is long enough that nothing is left to ask for
        part.write_bytes(beginning)
        with pytest.raises(InputError, match="is not the file with sha256"):
            fetch(url, RIGHT, tmp_path / "f")
        assert list(tmp_path.iterdir()) == []
    assert fetch(url, RIGHT, tmp_path / "f").read_bytes() == CONTENT


def test_a_place_that_cannot_be_written(fragile, tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(InputError, match=r"could not download .* to"):
        fetch(fragile[1], RIGHT, tmp_path / "taken" / "f")
    monkeypatch.setenv("DEEPMR_CACHE", str(tmp_path / "taken" / "cache"))
    (tmp_path / "e.toml").write_text(f'outcome = "a"\n[genome]\nurl = "{fragile[1]}"\n')
    code, _, errors = invoke("fetch", tmp_path / "e.toml")
    assert code == 2 and len(errors) == 1 and "cannot be made" in errors[0] and "DEEPMR_CACHE" in errors[0]


def test_fetch_says_what_it_did(server, files):
    url, served = server
    for name in ("g.fa", "tf1.bed"):
        (files / name).rename(served / name)
    md5 = hashlib.md5((served / "g.fa").read_bytes()).hexdigest()
    text = TOML.replace('file = "g.fa"', f'url = "{url}/g.fa"\nmd5 = "{md5}"').replace('file = "tf1.bed"', f'url = "{url}/tf1.bed"')
    (files / "e.toml").write_text(text)
    for word in ("fetched", "already there"):
        code, out, errors = invoke("fetch", files / "e.toml")
        assert code == 0 and errors == [] and len(out.splitlines()) == 3
        assert re.search(rf"^genome: \w+-g.fa, [\d,]+ bytes, {word}, md5 as expected$", out, re.M)
        assert re.search(rf"^peaks.X_TF1_None: .* {word}, no hash is known to compare with; sha256 = [0-9a-f]{{64}}$", out, re.M)
    (files / "e.toml").write_text(text.replace(md5, "0" * 32))
    code, _, errors = invoke("fetch", files / "e.toml")
    assert code == 2 and len(errors) == 1 and f"{url}/g.fa" in errors[0] and "0" * 32 in errors[0]


def test_peaks_that_bind_no_window_are_named(files):
    (files / "tf1.bed").write_text("chr1\t300\t340\n")
    (files / "tf2.bed").write_text("chr1\t300\t340\n")
    code, _, errors = invoke("run", files / "e.toml", "--out", files / "out")
    assert code == 2 and "peaks.X_TF1_None: found no peak that covers half of the middle of a window on chr1" in errors[-1]


def test_without_a_network_the_url_is_named(files):
    (files / "e.toml").write_text(TOML.replace('file = "g.fa"', 'url = "http://127.0.0.1:9/hg19.fa.gz"'))
    for command in ("run", "fetch"):
        code, _, errors = invoke(command, files / "e.toml")
        assert code == 2 and "http://127.0.0.1:9/hg19.fa.gz" in errors[-1] and "is there a network?" in errors[-1]


def test_all_files_that_are_missing_are_named_and_the_others_fetched(server, files):
    url, served = server
    (files / "g.fa").rename(served / "g.fa")
    (files / "tf1.bed").unlink()
    (files / "tf2.bed").unlink()
    (files / "e.toml").write_text(TOML.replace('file = "g.fa"', f'url = "{url}/g.fa"'))
    code, out, errors = invoke("fetch", files / "e.toml")
    assert code == 2 and out.startswith("genome: ") and len(errors) == 1
    assert "peaks.X_TF1_None: found no file" in errors[0] and "1 more failed: peaks.X_TF2_None" in errors[0]


def test_what_cannot_be_fetched_does_not_keep_the_rest_from_being_fetched(server, files):
    url, served = server
    (files / "tf2.bed").rename(served / "tf2.bed")
    text = TOML.replace('file = "tf1.bed"', f'url = "{url}/none.bed"').replace('file = "tf2.bed"', f'url = "{url}/tf2.bed"')
    (files / "e.toml").write_text(text.replace("torch:own:load", "none.safetensors"))
    code, out, errors = invoke("fetch", files / "e.toml")
    assert code == 2 and len(errors) == 1 and "peaks.X_TF2_None: " in out
    assert errors[0].count("none.safetensors") == 1 and "1 more failed: peaks.X_TF1_None" in errors[0]


def test_a_file_on_this_machine_is_compared_with_its_hash(files):
    right = hashlib.sha256((files / "g.fa").read_bytes()).hexdigest()
    for digest in (right, "0" * 64):
        (files / "e.toml").write_text(TOML.replace('file = "g.fa"', f'file = "g.fa"\nsha256 = "{digest}"'))
        if digest == right:
            assert fetch_inputs(read_experiment(files / "e.toml"), lambda _: None)["genome"] == files / "g.fa"
        else:
            with pytest.raises(InputError, match=f"genome: found .*g.fa with sha256 {right}, expected 0000"):
                fetch_inputs(read_experiment(files / "e.toml"), lambda _: None)


# --- windows and runs -------------------------------------------------------------------------------------------------

def test_windows_follow_the_rule(files):
    asked, protocols = load_experiment(files / "e.toml", announce=lambda _: None)
    assert protocols == ["masks", "paper"] and asked.exposures == ("X_TF1_None", "X_TF2_None")
    windows = read_windows(asked.regions)
    assert len(windows) and (windows.start % 200 == 0).all() and (windows.end - windows.start == 120).all()
    for i, name in enumerate(("tf1", "tf2")):
        peaks = pd.read_csv(files / f"{name}.bed", sep="\t", names=["chrom", "start", "end"])
        assert [asked.exposures[i] in labels for labels in windows.labels] == is_bound(windows, peaks).tolist()
    again, _ = load_experiment(files / "e.toml", announce=lambda _: None)
    assert again.regions == asked.regions  # the same content has the same name


@pytest.mark.parametrize("old, new, says", [
    ('["chr1"]', '["chr2"]', "chromosomes: found 'chr2', which g.fa does not have; did you mean chr1?"),
    ("X_TF1_None =", "X_TF3_None =", "label: found 'X_TF3_None'.*did you mean"),
    ("X_DNase_None", "X_DNAse_None", "label: found 'X_DNAse_None'.*did you mean"),
    ("own:load", "own:lod", "torch:own:lod' cannot be loaded")])
def test_what_does_not_fit_the_model_or_the_genome(files, old, new, says):
    (files / "e.toml").write_text(TOML.replace(old, new))
    with pytest.raises(InputError, match=says):
        load_experiment(files / "e.toml", announce=lambda _: None)


def test_an_exposure_without_a_window_is_named(files):
    (files / "tf2.bed").write_text("chr1\t10\t20\n")
    with pytest.raises(InputError, match=r"peaks.X_TF2_None: found no peak that covers half of the middle of a window on chr1"):
        load_experiment(files / "e.toml", announce=lambda _: None)


def test_run_and_continue(files, monkeypatch):
    monkeypatch.setattr("deepmr.plots.draw_figures", lambda out: [])  # they take longer than the run
    out = files / "out"
    code, said, _ = invoke("run", files / "e.toml", "--out", out, "--windows", 3, "--workers", 1)
    assert code == 0 and "the same draws under each protocol" in said and (out / "experiment.toml").read_text() == TOML
    table = (out / "table1.csv").read_bytes()
    drawn = pd.read_csv(out / "windows.bed", sep="\t", header=None)[6]
    assert all(1 <= drawn.str.contains(exposure).sum() <= 3 for exposure in ("X_TF1_None", "X_TF2_None"))
    next((out / "local").glob("*.json")).unlink()
    (out / "table1.csv").unlink()
    assert invoke("run", files / "e.toml", "--out", out, "--windows", 3, "--workers", 1)[0] == 0
    assert (out / "table1.csv").read_bytes() == table
    code, _, errors = invoke("run", files / "e.toml", "--out", out, "--draws", 2)
    assert code == 2 and "holds another run (it differs in windows, draws" in errors[-1]
    for option in ("--windows", "--draws"):
        assert invoke("run", files / "e.toml", "--out", files / "new", option, 0)[0] == 2
    code, _, errors = invoke("run", files / "e.toml", "--out", files / "new", "--device", "cuda:9")
    assert code == 2 and "device: found 'cuda:9', which cannot be used here" in errors[-1]
    assert not (files / "new").exists()


def test_the_small_experiment_asks_the_windows_that_ship(hg19, tmp_path):
    genome = f'\n[genome]\nfile = "{hg19 / "hg19_segments.fa.gz"}"\n'
    (tmp_path / "e.toml").write_text((ROOT / "experiments" / "hepg2.toml").read_text() + genome)
    asked, _ = load_experiment(tmp_path / "e.toml", windows=2, announce=lambda _: None)
    p = plan(asked)
    assert asked.regions is None and sum(len(e) for e in p.windows.exposures) == 6 and set(p.windows.chrom) <= {"chr9", "chr22"}


def test_runs_of_a_file_need_the_genome_only_through_it(files):
    "The windows lie where the genome says, with its sequence's digest."
    asked, _ = load_experiment(files / "e.toml", announce=lambda _: None)
    windows, genome = read_windows(asked.regions), Genome(files / "g.fa")
    assert all(hashlib.sha256(genome.fetch(w.chrom, w.start, w.end).encode()).hexdigest()[:16] == w.digest for w in windows.itertuples())
