"""The command line: help that shows every default on every terminal, one line for a mistake, the sentences of the registry."""
import gzip
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import xarray as xr
from typer.testing import CliRunner

from conftest import ROOT
from deepmr.cli import app
from deepmr.core import Execution
from deepmr.notes import NOTES
from deepmr.pipeline import write_effects
from deepmr.tables import table1

COMMANDS = ("table1", "run", "fetch", "effects", "labels", "decoys", "matrix", "compare", "export", "report",
            "status", "simulate", "train", "windows")
START = "from deepmr.cli import main; main()"


def invoke(*args, **environment):
    "Exit code, output and error stream of a command in this process."
    done = CliRunner(env={"COLUMNS": "100", **environment}).invoke(app, list(map(str, args)))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def start(*args, **environment):
    "The same in a process of its own, as a shell starts it."
    done = subprocess.run([sys.executable, "-c", START, *map(str, args)], cwd=ROOT, capture_output=True, env=os.environ | environment)
    return done.returncode, done.stdout, done.stderr


def options(command):
    "Each option of a command and what its help says, in one line."
    code, shown, _ = invoke(command, "--help")
    assert code == 0
    entries = re.split(r"^  (?=-)", shown.partition("Options:\n")[2], flags=re.M)[1:]
    return {entry.split()[0].rstrip(","): " ".join(entry.split()) for entry in entries}


# --- help ---------------------------------------------------------------------------------------------------------------

def test_every_command_is_listed():
    code, shown, _ = invoke("--help")
    assert code == 0 and all(re.search(rf"^  {command} +\w", shown, re.M) for command in COMMANDS)
    assert set(re.findall(r"^  (\w+) ", shown.partition("Commands:")[2], re.M)) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_option_shows_its_default_or_what_it_falls_back_to(command):
    shown = options(command)
    assert list(shown)[-1] == "-h"
    bare = [name for name, text in shown.items() if name != "-h" and not re.search(r"(\[|; )default: \S|\[required\]", text)]
    assert not bare
    assert not [name for name, text in shown.items() if "<list" in text or "(dynamic)" in text or "default: None]" in text]


@pytest.mark.parametrize("command, option, says", [
    ("table1", "--exposures", "default: (all of the outcome's cell)"), ("table1", "--regions", "default: (bound windows in the package)"),
    ("table1", "--genome", "env var: DEEPMR_GENOME; default: (what ships, cache, UCSC, then windows that the model makes)"),
    ("table1", "--draws", "default: (none: weights as shipped)"), ("table1", "--workers", "default: (one per core)"),
    ("table1", "--scheduler", "default: (this machine)"), ("table1", "--keep-draws", "default: (off)"), ("table1", "--windows", "default: 25"),
    ("table1", "--model", "'torch:package.module:factory[:weights]', 'keras:FILE'"), ("run", "--out", "default: (runs/ and the file's name)"),
    ("run", "--draws", "default: (the file's)"), ("labels", "--cell", "default: (all cells)"),
    ("effects", "--regions", "default: (required without --vcf)"),
    ("simulate", "--workers", "default: (one per core)"), ("train", "--data", "[required]")])
def test_defaults_that_are_not_a_value_are_words(command, option, says):
    assert says in options(command)[option]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_plain_ascii(command):
    code, shown, said = invoke(command, "--help", COLUMNS="40")
    assert code == 0 and shown.isascii() and said == ""


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}],
                         ids=["stream", "locale"])
def test_help_and_sentences_on_an_ascii_terminal(environment, tmp_path):
    code, shown, said = start("table1", "--help", **environment)
    assert code == 0 and b"--outcome" in shown and said == b""
    code, shown, said = start("status", tmp_path / "überall τ²", **environment)
    assert code == 2 and said.startswith(b"deepmr: run: found no run.json in ") and len(said.splitlines()) == 1


def test_a_character_that_the_terminal_lacks_is_spelt_out():
    code, _, said = start("status", "é τ²…", PYTHONIOENCODING="latin-1")
    assert code == 2 and said == "deepmr: run: found no run.json in é tau²..., expected a run directory of deepmr\n".encode("latin-1")


def test_no_command_at_all_shows_the_help():
    _, shown, said = invoke()
    assert "Usage: deepmr" in shown + said and "Commands:" in shown + said


def test_neither_help_nor_version_load_torch_or_pandas():
    code = ("import sys; from deepmr.cli import app; [app(a, standalone_mode=False) for a in (['--help'], ['table1', '--help'], ['--version'])]; "
            "print('loaded', [m for m in ('torch', 'pandas', 'matplotlib', 'scipy', 'rich') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded []"


# --- mistakes -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("arguments, says", [
    (["tabel1"], "No such command 'tabel1'"), (["--nonsense"], "No such option: --nonsense"), (["table1", "--nonsense"], "No such option"),
    (["table1", "--windows", "many"], "Invalid value for '--windows'"), (["table1", "--workers", "0"], "Invalid value for '--workers'"),
    (["effects", "--exposures", "a"], "Missing option '--regions'"), (["status"], "Missing argument"), (["table1", "--seed"], "--seed"),
    (["status", "none"], "run: found no run.json in none"), (["table1", "--protocol", "best"], "protocol: found 'best'"),
    (["table1", "surplus"], "surplus")])
def test_a_mistake_is_one_line_and_exit_code_2(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, shown, said = invoke(*arguments)
    assert (code, shown, len(said.splitlines())) == (2, "", 1) and said.startswith("deepmr: ") and says in said
    assert not list(tmp_path.iterdir())


def test_a_stopped_run_says_how_to_go_on(monkeypatch, tmp_path):
    def stopped(*_, **__):
        raise KeyboardInterrupt
    monkeypatch.setattr("deepmr.experiment.plan", stopped)
    code, _, said = invoke("table1", "--out", tmp_path / "run")
    assert code == 130 and said == "deepmr: stopped; finished windows are kept, and the same command goes on from here\n"


# --- what a run says ----------------------------------------------------------------------------------------------------

def arguments(experiment, out):
    return ["table1", "--model", experiment.model, "--outcome", experiment.outcome, "--regions", experiment.regions, "--genome", experiment.genome,
            "--windows", "2", "--draws", "4", "--workers", "1", "--out", out]


def test_warnings_are_sentences_of_the_registry(named, tmp_path, monkeypatch):
    monkeypatch.setattr("deepmr.plots.draw_figures", lambda out: [])  # they take longer than the run
    code, shown, _ = invoke(*arguments(named, tmp_path / "run"))
    assert code == 0
    table = table1(tmp_path / "run")
    codes = {code for text in table.warnings for code in re.findall(r"(\w+)(?: \(|;|$)", text)}
    lines = [line for line in shown.splitlines() if line.startswith("warning ")]
    assert len(lines) == len(codes) >= 2
    for line in lines:
        code, exposures, names, sentence = re.fullmatch(r"warning (\w+): (\d) of 2 exposures \((.*?)\)\. (.*)", line).groups()
        assert code in codes and sentence == NOTES[code].sentence and len(names.split(", ")) == int(exposures)
    assert pd.read_csv(tmp_path / "run" / "table1.csv").exposure.tolist() == ["X_TF1_None", "X_TF2_None"]


# --- several values, and options that belong together -------------------------------------------------------------------

@pytest.fixture
def quick(monkeypatch):
    "Runs without figures, which take longer than a run."
    monkeypatch.setattr("deepmr.plots.draw_figures", lambda out: [])


def asked(named, *more, regions=True):
    "A small run of the toy model; `more` comes last."
    where = ["--regions", named.regions] if regions else []
    return ["table1", "--model", named.model, "--outcome", named.outcome, "--genome", named.genome, *where, "--windows", "2", "--draws", "3",
            "--workers", "1", *more]


def exposures_of(out):
    return json.loads((out / "run.json").read_text())["experiment"]["exposures"]


@pytest.mark.parametrize("given", [["X_TF2_None,X_TF1_None"], ["X_TF2_None", "X_TF1_None"], ["X_TF2_None, ", " X_TF1_None"]],
                         ids=["commas", "repeated", "spaces"])
def test_repeated_exposures_are_all_kept(named, tmp_path, quick, given):
    code, _, said = invoke(*asked(named, *(word for label in given for word in ("--exposures", label))), "--out", tmp_path / "run")
    assert code == 0, said
    assert exposures_of(tmp_path / "run") == ["X_TF2_None", "X_TF1_None"]


def test_repeated_exposures_of_effects_and_repeated_protocols(named, tmp_path, quick):
    options = ["--model", named.model, "--outcome", named.outcome, "--genome", named.genome, "--regions", named.regions, "--draws", "3"]
    code, _, _ = invoke("effects", *options, "--exposures", "X_TF1_None", "--exposures", "X_TF2_None", "--out", tmp_path / "e.nc")
    assert code == 0 and xr.load_dataset(tmp_path / "e.nc", engine="h5netcdf").exposure.values.tolist() == ["X_TF1_None", "X_TF2_None"]
    code, shown, _ = invoke(*asked(named, "--protocol", "paper", "--protocol", "masks,reml"), "--out", tmp_path / "run")
    assert code == 0 and re.search(r"paper +masks +reml", shown)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["experiment"]["protocol"] == "paper"


@pytest.mark.parametrize("option, values", [("--windows", (3, 4)), ("--model", ("hepg2", "deepsea")), ("--outcome", ("a", "b")),
                                            ("--genome", ("a", "a")), ("--out", ("x", "y")), ("--seed", (0, 1))])
def test_an_option_with_one_value_is_refused_twice(option, values, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, shown, said = invoke("table1", *(word for value in values for word in (option, value)))
    assert (code, shown, said) == (2, "", f"deepmr: {option}: found 2 values, expected one\n") and not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["exposures", "peaks", "chromosomes"])
@pytest.mark.parametrize("value", ["", " , "])
def test_an_option_without_a_value_is_not_the_default(named, option, value, tmp_path):
    code, shown, said = invoke(*asked(named), f"--{option}", value, "--out", tmp_path / "run")
    assert (code, shown) == (2, "") and said.startswith(f"deepmr: {option}: found --{option} without a value, expected at least one")
    assert not (tmp_path / "run").exists()


def test_a_flag_may_stand_twice():
    assert invoke("labels", "hepg2", "--trust-code", "--trust-code", "--cell", "HepG2")[0] == 0


@pytest.fixture
def peaks(toy_files):
    "Peaks of one factor on the left half of the genome, of the other on the right."
    for name, starts in (("tf1", range(200, 1400, 200)), ("tf2", range(1500, 2700, 200))):
        (toy_files / f"{name}.bed").write_text("".join(f"chr1\t{s}\t{s + 150}\n" for s in starts))
    return toy_files


@pytest.mark.parametrize("form", ["X_TF1_None={0}/tf1.bed,X_TF2_None={0}/tf2.bed", "X_TF1_None={0}/tf1.bed --peaks X_TF2_None = {0}/tf2.bed"],
                         ids=["commas", "repeated"])
def test_peaks_on_the_command_line_are_those_of_an_experiment_file(named, peaks, tmp_path, quick, form):
    given = form.format(peaks).replace(" = ", "=").split()
    code, _, said = invoke(*asked(named, "--peaks", *given, "--chromosomes", "chr1", regions=False), "--seed", "1", "--out", tmp_path / "line")
    assert code == 0, said
    (peaks / "e.toml").write_text(f"""
model = "{named.model}"
outcome = "{named.outcome}"
chromosomes = ["chr1"]
windows = 2
draws = 3
seed = 1
genome = {{file = "g.fa"}}
peaks = {{X_TF1_None = {{file = "tf1.bed"}}, X_TF2_None = {{file = "tf2.bed"}}}}
""")
    assert invoke("run", peaks / "e.toml", "--workers", "1", "--out", tmp_path / "file")[0] == 0
    for name in ("table1.csv", "windows.bed"):
        assert (tmp_path / "line" / name).read_bytes() == (tmp_path / "file" / name).read_bytes()


def test_one_file_of_peaks_for_all_exposures_is_announced(named, peaks, tmp_path, quick):
    one = ["--peaks", peaks / "tf1.bed", "--chromosomes", "chr1"]
    code, _, said = invoke(*asked(named, *one, regions=False), "--out", tmp_path / "run")
    assert code == 0 and "peaks: tf1.bed serves all 2 exposures: X_TF1_None, X_TF2_None" in said
    code, _, said = invoke(*asked(named, *one, "--exposures", "X_TF2_None", regions=False), "--out", tmp_path / "one")
    assert code == 0 and "peaks: tf1.bed serves all 1 exposures: X_TF2_None" in said and exposures_of(tmp_path / "one") == ["X_TF2_None"]


def test_regions_without_labels_are_said_to_serve_all(named, tmp_path, quick):
    _, shown, _ = invoke(*asked(named), "--out", tmp_path / "run")
    assert "note: The regions name no exposures, so their windows serve all (sites.bed, 2 exposures)." in shown
    _, shown, _ = invoke(*asked(named, "--exposures", "X_TF1_None"), "--out", tmp_path / "one")
    assert "name no exposures" not in shown


@pytest.mark.parametrize("given, says", [
    (["--peaks", "tf1.bed", "--peaks", "tf2.bed"], "peaks: found 'tf1.bed' without a label"),
    (["--peaks", "A=tf1.bed,tf2.bed"], "peaks: found 'tf2.bed' without a label"),
    (["--peaks", "X_TF1_None=tf1.bed,X_TF1_None=tf2.bed"], "peaks: found X_TF1_None twice"), (["--peaks", "tf1.bed"], "chromosomes: found none"),
    (["--peaks", "tf1.bed", "--chromosomes", "chr1", "--regions", "sites.bed"], "regions: found --regions beside --peaks"),
    (["--peaks", "X_TF1_None=tf1.bed", "--chromosomes", "chr1", "--exposures", "X_TF2_None"], "exposures: found other labels than those of --peaks"),
    (["--peaks", "X_TF3_None=tf1.bed", "--chromosomes", "chr1"], "label: found 'X_TF3_None'"),
    (["--peaks", "none.bed", "--chromosomes", "chr1"], "regions: found no file none.bed"),
    (["--peaks", "tf1.bed", "--chromosomes", "chr2"], "chromosomes: found 'chr2', which g.fa does not have; did you mean chr1?"),
    (["--regions", "sites.bed", "--chromosomes", "1"], "chromosomes: found no region of sites.bed on 1, expected some of chr1")])
def test_peaks_and_chromosomes_that_do_not_fit_are_one_sentence(named, peaks, monkeypatch, given, says):
    monkeypatch.chdir(peaks)
    code, shown, said = invoke(*asked(named, *given, regions=False), "--out", "new")
    assert (code, shown) == (2, "") and said.splitlines()[-1].startswith(f"deepmr: {says}") and not (peaks / "new").exists()


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_chromosomes_keep_their_windows(named, toy_files, tmp_path, quick, packed):
    bases = (toy_files / "g.fa").read_text().splitlines()[1]
    (toy_files / "two.fa").write_text(f">chr1\n{bases}\n>chr2\n{bases[::-1]}\n>chr10\n{bases}\n")
    text = "#track\n" + "".join(f"{c}\t{s}\t{s + 50}\n" for s in range(200, 2600, 300) for c in ("chr1", "chr2", "chr10")).replace("chr2\t", "chr2 ")
    text = text.replace(" ", "\t")
    (toy_files / "two.bed").write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    more = ["--regions", toy_files / "two.bed", "--chromosomes", "chr2", "--chromosomes", "chr1,chrX"]
    line = [*asked(named, regions=False), *more]
    line[line.index(named.genome)] = toy_files / "two.fa"
    code, _, said = invoke(*line, "--out", tmp_path / "run")
    assert code == 0 and "chromosomes: two.bed has no region on chrX" in said and "16 regions of two.bed lie on chr2, chr1" in said
    chosen = {line.split("\t")[0] for line in (tmp_path / "run" / "windows.bed").read_text().splitlines()}
    assert chosen <= {"chr1", "chr2"}
    before = (tmp_path / "run" / "table1.csv").read_bytes()
    assert invoke(*line, "--out", tmp_path / "run")[0] == 0 and (tmp_path / "run" / "table1.csv").read_bytes() == before  # the same run again


# --- a first run --------------------------------------------------------------------------------------------------------

def test_the_labels_of_a_model_are_listed_where_the_default_outcome_is_not_among_them(named, tmp_path):
    code, shown, said = invoke("table1", "--model", named.model, "--regions", named.regions, "--genome", named.genome, "--out", tmp_path / "run")
    assert (code, shown) == (2, "") and said == ("deepmr: outcome: found 'HepG2_DNase_None' (the default), which model toy does not predict, "
                                                 "expected one of X_TF1_None, X_TF2_None, X_DNase_None\n")
    more = ["--exposures", "X_TF1_None", "--regions", named.regions, "--genome", named.genome, "--out", tmp_path / "e.nc"]
    assert "expected one of X_TF1_None, X_TF2_None, X_DNase_None" in invoke("effects", "--model", named.model, *more)[2]
    assert "did you mean X_DNase_None?" in invoke("table1", "--model", named.model, "--outcome", "X_DNAse", *more[2:-1], tmp_path / "run")[2]
    assert "expected one of X_TF1_None" in invoke("table1", "--model", named.model, "--outcome", "qqqq", *more[2:-1], tmp_path / "run")[2]
    said = invoke("table1", "--outcome", "qqqq", *more[2:-1], tmp_path / "run")[2]
    assert "HepG2_ARID3A_None" in said and "more (deepmr labels hepg2)" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("command", [["table1", "--model"], ["labels"], ["effects", "--exposures", "a", "--regions", "b.bed", "--model"]])
@pytest.mark.parametrize("spec", ["mycnn.pt", "hepg2,my.ckpt", "my/NET.PTH"])
def test_weights_alone_are_no_model(command, spec):
    code, shown, said = invoke(*command, spec)
    alone = spec.split(",")[-1]
    assert (code, shown) == (2, "") and said.startswith(f"deepmr: model: found '{alone}', weights without a network, expected 'torch:package.")
    assert f":{alone}'" in said and len(said.splitlines()) == 1


FACTORY = """
from conftest import toy_model as load
"""


def test_where_the_weights_of_a_factory_come_from_is_the_first_line(named, toy_files, tmp_path, monkeypatch, quick):
    (toy_files / "factory.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(str(toy_files))
    for spec, words in (("torch:factory:load", "as the function returned them"), (f"torch:factory:load:{named.model}", named.model)):
        line = asked(named, "--out", tmp_path / words[-5:])
        line[line.index(named.model)] = spec
        code, shown, _ = invoke(*line)
        assert code == 0 and shown.splitlines()[0] == f"model: {spec}, weights: {words}"


def test_options_that_do_nothing_are_named(named, tmp_path, quick):
    code, _, said = invoke(*asked(named, "--trust-code", "--scheduler", "tcp://127.0.0.1:9", "--out", tmp_path / "run"))
    assert code == 2 and "note: --workers has no effect" in said and "note: --trust-code has no effect" in said
    code, _, said = invoke(*asked(named, "--out", tmp_path / "run"))
    assert code == 0 and "has no effect" not in said


@pytest.mark.parametrize("option, says", [("--motifs", "motifs: found 'x.meme' for protocol masks"), ("--decoys", "decoys: found no file x.meme")])
def test_files_that_a_protocol_does_not_read_are_refused(named, option, says, tmp_path):
    code, shown, said = invoke(*asked(named, option, "x.meme"), "--out", tmp_path / "run")
    assert (code, shown, said.splitlines()[-1][:len(says) + 8]) == (2, "", f"deepmr: {says}")


@pytest.mark.parametrize("draws, idle", [((), True), (("--draws", "3"), False)])
def test_a_seed_of_effects_that_decides_nothing_is_named(named, draws, idle, tmp_path):
    options = ["--model", named.model, "--outcome", named.outcome, "--genome", named.genome, "--regions", named.regions, "--exposures", "X_TF1_None"]
    code, _, said = invoke("effects", *options, "--seed", "5", *draws, "--out", tmp_path / "e.nc")
    assert code == 0 and ("--seed has no effect" in said) == idle


# --- options that another one makes idle --------------------------------------------------------------------------------

def test_draws_that_a_single_pass_cannot_keep_are_named(named, tmp_path, quick):
    said = "note: An option has no effect beside the others (keep_draws: one pass with the weights as shipped has no draws to keep)."
    line = [v for v in asked(named) if v not in ("--draws", "3")]
    code, shown, _ = invoke(*line, "--keep-draws", "--out", tmp_path / "run")
    assert code == 0 and said in shown.splitlines()
    code, shown, _ = invoke(*line, "--out", tmp_path / "run")  # the same question, so the same run
    assert code == 0 and "no effect" not in shown and "holds another run" not in shown
    code, shown, _ = invoke(*asked(named, "--keep-draws"), "--out", tmp_path / "masks")
    assert code == 0 and "no effect" not in shown
    some = ["effects", *line[1:line.index("--windows")], "--exposures", "X_TF1_None", "--keep-draws"]
    code, _, told = invoke(*some, "--out", tmp_path / "e.nc")
    assert code == 0 and said.removeprefix("note: ") in told.splitlines()
    code, _, told = invoke(*some, "--draws", "3", "--out", tmp_path / "e.nc")
    assert code == 0 and "no effect" not in told


def test_what_a_causal_step_needs_is_named_where_there_is_none(named, tmp_path):
    lines = []
    write_effects(replace(named, exposures=("X_TF1_None",), motifs="x.meme", controls="shuffled", draws=None), tmp_path / "e.nc",
                  Execution(workers=1, announce=lines.append))
    assert sum("no effect" in line and ("motifs: " in line or "controls: " in line) for line in lines) == 2


def test_decoys_beside_other_controls_are_refused(named, tmp_path):
    line = [v for v in asked(named) if v not in ("--draws", "3")]
    invoke("decoys", "--model", named.model, "--outcome", named.outcome, "--genome", named.genome, "--regions", named.regions, "--open",
           named.regions, "--out", tmp_path / "d.safetensors")
    for controls in ("none", "shuffled"):
        code, shown, said = invoke(*line, "--decoys", tmp_path / "d.safetensors", "--controls", controls, "--out", tmp_path / "run")
        assert (code, shown) == (2, "") and "decoys: found" in said and len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["table1", "effects"])
def test_both_strands_of_a_stretch_of_the_genome_or_of_a_vcf_are_refused(named, command, tmp_path):
    (tmp_path / "v.vcf").write_text("##fileformat=VCFv4.2\n##contig=<ID=chr1>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n")
    options = ["--model", named.model, "--outcome", named.outcome, "--genome", named.genome, "--regions", named.regions, "--exposures",
               "X_TF1_None", "--out", tmp_path / "out", "--stranded"]
    for more, what in ((["--span", "chr1:200-400"], "a stretch of the genome"), (["--vcf", tmp_path / "v.vcf"], "a VCF")):
        code, _, said = invoke(command, *options, *more)
        assert code == 2 and said.startswith(f"deepmr: stranded: found it beside {what}, whose positions are those of the plus strand")


def test_a_stretch_of_the_window_goes_with_strands(named, tmp_path, quick):
    code, _, said = invoke(*asked(named, "--stranded", "--span", "10-60"), "--out", tmp_path / "run")
    assert code == 0, said


def test_regions_that_decoys_cannot_use_are_counted(named, tmp_path):
    bed = Path(named.regions).read_text() + "chr1\t0\t20\nchrUn\t100\t200\n"
    (tmp_path / "more.bed").write_text(bed)
    _, _, said = invoke("decoys", "--model", named.model, "--outcome", named.outcome, "--genome", named.genome, "--regions",
                        tmp_path / "more.bed", "--open", named.regions, "--out", tmp_path / "d.safetensors")
    assert "note: Some regions have no whole window in the sequence and were left out (2 of 10" in said
