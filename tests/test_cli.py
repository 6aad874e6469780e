"""The command line: help that shows every default on every terminal, one line for a mistake, the sentences of the registry."""
import re
import subprocess
import sys

import pandas as pd
import pytest
from typer.testing import CliRunner

from conftest import ROOT
from deepmr.cli import app
from deepmr.notes import NOTES
from deepmr.pipeline import table1

COMMANDS = ("table1", "run", "fetch", "effects", "labels", "matrix", "report", "status", "simulate", "train", "windows")
START = "from deepmr.cli import main; main()"


def invoke(*args, **environment):
    "Exit code, output and error stream of a command in this process."
    done = CliRunner(env={"COLUMNS": "100", **environment}).invoke(app, list(map(str, args)))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def start(*args, **environment):
    "The same in a process of its own, as a shell starts it."
    import os
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
    ("table1", "--genome", "env var: DEEPMR_GENOME; default: (cache, then UCSC, then windows that the model makes)"),
    ("table1", "--draws", "default: (50; of an ensemble, one per member)"), ("table1", "--workers", "default: (one per core)"),
    ("table1", "--scheduler", "default: (this machine)"), ("table1", "--keep-draws", "default: (off)"), ("table1", "--windows", "default: 25"),
    ("table1", "--model", "'torch:package.module:factory[:weights]', 'deepsea[:FILE]'"), ("run", "--out", "default: (runs/ and the file's name)"),
    ("run", "--draws", "default: (the file's)"), ("labels", "--cell", "default: (all cells)"), ("effects", "--regions", "[required]"),
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
    monkeypatch.setattr("deepmr.pipeline.plan", stopped)
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
