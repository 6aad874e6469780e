"""Small real pieces that several test files use."""
import functools
import http.server
import importlib
import os
import pkgutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

import deepmr
from deepmr.experiment import Experiment
from deepmr.networks import ConvNet, SequenceModel, save_model

# The same examples in every run; HYPOTHESIS_PROFILE=default looks for new ones.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
quiet = {"announce": lambda line: None}


class PublicNames:
    "Every public name of deepmr, whichever chapter it lives in: `api.ivw`. A name has one home, so none is ambiguous."

    def __getattr__(self, name: str) -> Any:
        for module in pkgutil.iter_modules(deepmr.__path__):
            if module.name[0] != "_" and module.name != "cli" and name in (home := importlib.import_module(f"deepmr.{module.name}")).__all__:
                setattr(self, name, found := getattr(home, name))
                return found
        raise AttributeError(f"no module of deepmr has the public name {name}")


api = PublicNames()


def need(module: str, where: str) -> Any:
    "An optional package. Where it is missing the test is skipped, or fails if DEEPMR_NO_SKIP says that it must be there (`make zoo`)."
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if os.environ.get("DEEPMR_NO_SKIP"):
            raise
        pytest.skip(f"needs {where} ({error})")


@pytest.fixture(scope="session")
def hg19():
    folder = SHARED / "hg19"
    if not folder.is_dir():
        pytest.skip("the hg19 segments are not on this machine")
    return folder


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory, monkeypatch):
    "No test reads or fills the user's cache, and none reaches the network."
    monkeypatch.setenv("DEEPMR_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("DEEPMR_GENOME", raising=False)
    monkeypatch.setattr("deepmr.regions.UCSC", "http://127.0.0.1:9/closed")
    monkeypatch.setattr("deepmr.models.DEEPSEA_LABELS", "http://127.0.0.1:9/predictor_names.txt")


def toy_model(seed: int = 0, length: int = 120) -> SequenceModel:
    "A small random network whose weights are large enough for mutations and dropout to matter."
    torch.manual_seed(seed)
    net = ConvNet(3, channels=(16, 16), kernels=(7, 3), pools=(4, 2), conv_dropout=(0.2, 0.2), hidden=16,
                  hidden_dropout=0.4, length=length)
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(2)
    return SequenceModel(net, ["X_TF1_None", "X_TF2_None", "X_DNase_None"], length, "toy")


@pytest.fixture
def toy():
    return toy_model()


@pytest.fixture
def toy_files(tmp_path):
    "A genome of one chromosome and eight regions on it."
    bases = "".join(np.random.default_rng(0).choice(list("ACGT"), 3000))
    (tmp_path / "g.fa").write_text(f">chr1\n{bases}\n")
    (tmp_path / "sites.bed").write_text("".join(f"chr1\t{s}\t{s + 50}\n" for s in range(200, 2600, 300)))
    return tmp_path


def toy_experiment(model, files, **change):
    values = dict(model=model, outcome="X_DNase_None", regions=str(files / "sites.bed"), genome=str(files / "g.fa"),
                  windows=3, draws=6, seed=1)
    return Experiment(**(values | change))


@pytest.fixture
def named(toy, toy_files):
    "An experiment whose model is a file, so that other processes can load it."
    config = dict(n_labels=3, channels=(16, 16), kernels=(7, 3), pools=(4, 2), conv_dropout=(0.2, 0.2), hidden=16,
                  hidden_dropout=0.4, length=120)
    save_model(toy, config, toy_files / "toy.safetensors")
    return toy_experiment(str(toy_files / "toy.safetensors"), toy_files, windows=8, draws=30)


@pytest.fixture
def server(tmp_path):
    "A local web server over a folder: (its URL, the folder)."
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}", folder
        httpd.shutdown()
