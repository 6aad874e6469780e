"""Models from elsewhere: layouts, DeepSEA, Kipoi, weights that must not run code, and labels that stand several times."""
import hashlib
import json
import os
import re
import shutil
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from conftest import SHARED, need
from deepmr.adapters import adapt, background_ensemble, stack
from deepmr.cli import app
from deepmr.core import Execution, InputError
from deepmr.dropout import MaskSampler
from deepmr.effects import make_engine, mutation_effects
from deepmr.experiment import Experiment, default_exposures, plan, resolve_labels
from deepmr.models import DeepSEA, fetch, load_model
from deepmr.mutagenesis import saturate
from deepmr.networks import Ensemble, SequenceModel, read_weights, save_model
from deepmr.pipeline import run
from deepmr.propagate import Propagator

LENGTH = 60


def dna(n=1, length=LENGTH, seed=0):
    "Random one-hot windows (n, 4, length)."
    return np.eye(4, dtype=np.float32)[np.random.default_rng(seed).integers(0, 4, (n, length))].transpose(0, 2, 1)


def reverse_complement(x):
    return np.ascontiguousarray(x[:, ::-1, ::-1])


# --- labels -----------------------------------------------------------------------------------------------------------

class Zeros(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.n = n

    def forward(self, x):
        return x.new_zeros(len(x), self.n)


def named_like(labels):
    return SequenceModel(Zeros(len(labels)), labels, 10)


@given(st.lists(st.sampled_from(["CTCF", "DNase", "a#b", "#", "", "0", "7", "CTCF#", "##1"]) | st.text(max_size=4), min_size=1, max_size=12))
def test_every_column_has_an_address_that_leads_back_to_it(labels):
    try:
        model = named_like(labels)
    except InputError as error:
        if "reads as the address" in str(error):
            return
        raise
    assert [model.index(a) for a in model.addresses] == list(range(len(labels)))
    for label in set(labels):
        if labels.count(label) == 1:
            assert model.index(label) == labels.index(label)
        else:
            with pytest.raises(InputError, match=f"stands {labels.count(label)} times"):
                model.index(label)


def test_the_first_of_a_repeated_label_is_number_1():
    model = named_like(["CTCF", "DNase", "CTCF", "CTCF"])
    assert model.addresses == ("CTCF#1", "DNase", "CTCF#2", "CTCF#3")
    assert [model.index(k) for k in ("CTCF#1", "CTCF#2", "CTCF#3", "DNase", "DNase#1", 2, "2")] == [0, 2, 3, 1, 1, 2, 2]
    for bad, says in (("CTCF", r"CTCF#1 \(number 0\), CTCF#2 \(number 2\), CTCF#3 \(number 3\)"), ("CTCF#0", "CTCF#1 to CTCF#3"),
                      ("CTCF#4", "CTCF#1 to CTCF#3"), ("DNase#2", "DNase#1 to DNase#1"), ("CTFC", "did you mean CTCF#"),
                      ("9", "expected 0 to 3")):
        with pytest.raises(InputError, match=says):
            model.index(bad)
    with pytest.raises(InputError, match="found a label 'a#2' that reads as the address"):
        named_like(["a", "a", "a#2"])


@pytest.fixture
def repeated(toy):
    "The toy with its two exposures named alike."
    return SequenceModel(toy.module, ["X_TF_None", "X_TF_None", "X_DNase_None"], 120, "repeated", label_warnings={"X_TF_None": ["weak_label"]})


def test_a_run_names_repeated_labels_by_address(repeated, toy_files):
    assert default_exposures(repeated, "X_DNase_None") == ("X_TF_None#1", "X_TF_None#2")
    assert default_exposures(repeated, "X_TF_None#2") == ("X_DNase_None",)  # the outcome's own name is no exposure
    experiment = Experiment(model=repeated, exposures=(), outcome="2", regions=str(toy_files / "sites.bed"), genome=str(toy_files / "g.fa"),
                            windows=3, draws=5)
    p = plan(experiment, Execution(announce=lambda line: None))
    assert p.experiment.outcome == "X_DNase_None" and p.exposures == ("X_TF_None#1", "X_TF_None#2")
    table = run(p, toy_files / "out", Execution(workers=1))
    assert sorted(table.exposure) == ["X_TF_None#1", "X_TF_None#2"] and table["mean"].nunique() == 2
    assert all("weak_label" in row for row in table.warnings)
    effects = mutation_effects(repeated, p.x[:1], ["X_TF_None#2", 0], "2", n_draws=2, seed=0)
    assert list(effects.exposure.values) == ["X_TF_None#2", "X_TF_None#1"] and effects.attrs["outcome"] == "X_DNase_None"
    for asked in (("X_TF_None",), ("X_TF_None#1", "0")):
        with pytest.raises(InputError, match=r"stands 2 times|found .* twice"):
            resolve_labels(Experiment(model=repeated, exposures=asked, outcome="X_DNase_None"), repeated)


def test_regions_observed_under_the_plain_label_serve_every_address(repeated, toy_files):
    bed = toy_files / "labelled.bed"
    bed.write_text("".join(f"chr1\t{s}\t{s + 120}\tw{s}\t0\t+\t{label}\n"
                           for s, label in ((200, "X_TF_None"), (600, "X_TF_None#2"), (900, "other"))))
    p = plan(Experiment(model=repeated, exposures=(), outcome="X_DNase_None", regions=str(bed), genome=str(toy_files / "g.fa"), draws=2),
             Execution(announce=lambda line: None))
    assert dict(zip(p.windows.start, p.windows.exposures)) == {200: ("X_TF_None#1", "X_TF_None#2"), 600: ("X_TF_None#2",)}


def test_labels_from_the_command_line(repeated, tmp_path):
    config = dict(n_labels=3, channels=(16, 16), kernels=(7, 3), pools=(4, 2), conv_dropout=(0.2, 0.2), hidden=16,
                  hidden_dropout=0.4, length=120)
    save_model(repeated, config, tmp_path / "r.safetensors")
    done = CliRunner().invoke(app, ["labels", str(tmp_path / "r.safetensors"), "--cell", "X"])
    assert done.exit_code == 0 and done.stdout.splitlines() == [
        "number\taddress\tlabel", "0\tX_TF_None#1\tX_TF_None", "1\tX_TF_None#2\tX_TF_None", "2\tX_DNase_None\tX_DNase_None"]
    assert CliRunner().invoke(app, ["labels", str(tmp_path / "r.safetensors"), "--cell", "Y"]).exit_code == 2


# --- layouts ----------------------------------------------------------------------------------------------------------

def flat():
    return nn.Sequential(nn.Conv2d(4, 8, (1, 7)), nn.ReLU(), nn.MaxPool2d((1, 4)), nn.Dropout(0.2), nn.Flatten(),
                         nn.Linear(8 * 13, 3), nn.Sigmoid())


def profile():
    return nn.Sequential(nn.Conv1d(4, 8, 7), nn.ReLU(), nn.Dropout(0.2), nn.Conv1d(8, 3, 3))


class Heads(nn.Module):
    "A profile and a count, as BPNet has them."

    def __init__(self):
        super().__init__()
        self.body, self.count = profile(), nn.Linear(3, 2)

    def forward(self, x):
        y = self.body(x)
        return y, self.count(y.mean(-1))


class LastAxis(nn.Module):
    "Bases and labels along the last axis."

    def __init__(self):
        super().__init__()
        self.body = profile()

    def forward(self, x):
        return self.body(x.transpose(1, 2)).transpose(1, 2)


LAYOUTS = {
    "dummy axis, other alphabet, both strands": lambda: adapt(flat(), list("abc"), LENGTH, axes="NC1L", alphabet="AGCT", reverse_complement=True),
    "part of a profile": lambda: adapt(profile(), list("abc"), LENGTH, reduce="mean", positions=(10, 40)),
    "maximum of a profile, both strands": lambda: adapt(profile(), list("abc"), LENGTH, reduce="max", reverse_complement=True),
    "one of two heads": lambda: adapt(Heads(), list("ab"), LENGTH, output=1),
    "two models of one length": lambda: stack([LAYOUTS["part of a profile"](), adapt(flat(), list("abc"), LENGTH, axes="NC1L")]),
    "two models of two lengths": lambda: stack([adapt(profile(), list("abc"), 41, reduce="sum"), adapt(flat(), list("abc"), LENGTH, axes="NC1L")]),
    "last axis": lambda: adapt(LastAxis(), list("abc"), LENGTH, axes="NLC", output_axes="NPT", reduce="sum"),
}


@pytest.mark.filterwarnings("ignore:.*computed in full from transpose")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_wrapped_networks_propagate(layout):
    torch.manual_seed(0)
    model = LAYOUTS[layout]()
    x, mutations = torch.from_numpy(dna()[0]), saturate(dna()[0])
    columns = list(range(len(model.labels)))
    masks = MaskSampler(model, seed=1)("w", 0)
    reference, effects = Propagator(model, columns).draw(x, mutations, masks)
    plain_reference, plain = make_engine(model, columns, "plain").draw(x, mutations, masks)
    assert plain.abs().max() > 1e-3 and (effects - plain).abs().max() < 1e-5
    assert (reference - plain_reference).abs().max() < 1e-5


def test_options_mean_what_they_say():
    torch.manual_seed(1)
    net, x = profile(), dna(5)
    y = net.eval()(torch.from_numpy(x)).detach().numpy()
    for name, f in (("mean", np.mean), ("sum", np.sum), ("max", np.max)):
        got = adapt(net, list("abc"), LENGTH, reduce=name, positions=(3, 30)).predict(x)
        assert np.allclose(got, f(y[..., 3:30], -1), atol=1e-5)
    single = adapt(net, list("abc"), LENGTH, reduce="sum")
    both = adapt(net, list("abc"), LENGTH, reduce="sum", reverse_complement=True)
    assert np.allclose(both.predict(x), (single.predict(x) + single.predict(reverse_complement(x))) / 2, atol=1e-5)
    assert np.allclose(both.predict(x), both.predict(reverse_complement(x)), atol=1e-5)
    reordered = adapt(net, list("abc"), LENGTH, reduce="sum", alphabet="TGCA")  # the network's first base is T
    assert np.allclose(reordered.predict(x), single.predict(np.ascontiguousarray(x[:, ::-1])), atol=1e-5)
    assert adapt(net, list("abc"), LENGTH, reduce="sum").module.state_dict().keys() == {f"network.{k}" for k in net.state_dict()}


@pytest.mark.parametrize("options, says", [
    (dict(swap=[("a", "b")]), "swap: found swap without reverse_complement=True, expected both"),
    (dict(inputs=np.ones((1, LENGTH))), "inputs: found a ndarray, expected a list with one entry for each further input"),
    (dict(positions=(3, 30), output_axes="NT"), r"positions: found \(3, 30\) for output_axes 'NT', expected a profile")])
def test_options_that_do_nothing_or_miss_another_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        adapt(profile(), list("abc"), LENGTH, **options)


def test_a_function_and_a_list_of_networks_give_effects():
    made = [flat() for _ in range(3)]
    both, whole = (adapt(made, ["a", "b", "c"], LENGTH, axes="NC1L"), adapt(lambda x: made[0](x), ["a", "b", "c"], LENGTH, axes="NC1L"))
    effects = mutation_effects(both, dna(), "a", "c")
    assert isinstance(both, Ensemble) and effects.n_draws == 3 and float(effects.bxse.max()) > 0
    assert np.array_equal(both.members[0].predict(dna(2)), whole.predict(dna(2)))
    with pytest.raises(InputError, match=r"does not take input of shape|found an output of shape"):
        adapt(lambda x: x.sum(1), ["a", "b", "c"], LENGTH)


def test_a_lost_batch_axis_is_found_on_load():
    class Squeezed(nn.Module):
        def forward(self, x):
            return x[:1].sum((1, 2))[:, None]
    with pytest.raises(InputError, match=r"found an output of shape \(1, 1\) for two sequences, expected one of shape \(2, 1\)"):
        adapt(Squeezed(), ["a"], LENGTH)


def test_labels_from_a_file(tmp_path):
    (tmp_path / "l.txt").write_text("a\nb\nc\n")
    assert adapt(profile(), tmp_path / "l.txt", LENGTH, reduce="sum").labels == ("a", "b", "c")
    (tmp_path / "l.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match=r"found an output of shape \(2, 3, 52\).*expected one of shape \(2, 2, P\)"):
        adapt(profile(), tmp_path / "l.txt", LENGTH, reduce="sum")


def test_backgrounds_are_draws():
    torch.manual_seed(0)
    model = adapt(flat(), list("abc"), LENGTH, axes="NC1L")
    views = background_ensemble(model, n=4, share=0.2, seed=3)
    assert isinstance(views, Ensemble) and len(views.members) == 4
    replaced = [int((m.module.keep == 0).sum()) for m in views.members]
    assert replaced == [12] * 4 and all(bool((m.module.keep + m.module.other.sum(1, keepdim=True) == 1).all()) for m in views.members)
    found = {e: mutation_effects(views, dna(), "a", "b", engine=e, keep_draws=True) for e in ("plain", "propagate")}
    assert np.allclose(found["plain"].draws_x, found["propagate"].draws_x, atol=1e-5, equal_nan=True)
    for k, member in enumerate(views.members):  # what a view does not show has no effect in it
        hidden = (member.module.keep[0, 0] == 0).numpy()
        here = np.nan_to_num(found["plain"].draws_x.values[0, k])
        assert np.abs(here[hidden]).max() < 1e-6 < np.abs(here[~hidden]).max()


# --- weights ----------------------------------------------------------------------------------------------------------

class Trap:
    "A pickle that makes a file when it is opened."

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture
def trap(tmp_path):
    torch.save({"weight": Trap(tmp_path / "sprung")}, tmp_path / "trap.pth")
    yield tmp_path / "trap.pth"
    assert not (tmp_path / "sprung").exists()


def test_the_trap_works(tmp_path):
    torch.save({"weight": Trap(tmp_path / "sprung")}, tmp_path / "trap.pth")
    torch.load(tmp_path / "trap.pth", weights_only=False)
    assert (tmp_path / "sprung").exists()


FACTORY = "from torch import nn\nfrom deepmr.models import adapt\n" \
          "def make():\n    return adapt(nn.Conv1d(4, 2, 30), ['a', 'b'], 30, 'mine', output_axes='NT1')\n" \
          "def bare():\n    return nn.Conv1d(4, 2, 30)\n"


def test_a_factory_with_weights(tmp_path, monkeypatch, trap):
    (tmp_path / "my_models.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    weights = {"weight": torch.randn(2, 4, 30), "bias": torch.zeros(2)}
    save_file(weights, tmp_path / "w.safetensors")
    torch.save(weights, tmp_path / "w.pt")
    x = dna(3, 30)
    want = np.einsum("ncl,tcl->nt", x, weights["weight"].numpy())
    for name in ("w.safetensors", "w.pt"):
        model = load_model(f"torch:my_models:make:{tmp_path / name}")
        assert model.name == "mine" and np.allclose(model.predict(x), want, atol=1e-5)
    save_file({"weight": torch.ones(2, 4, 31), "bias": torch.zeros(2)}, tmp_path / "other.safetensors")
    for spec, says in ((f"make:{trap}", "could run code"), (f"make:{tmp_path / 'other.safetensors'}", "does not fit the network"),
                       ("bare", "gave a Conv1d, expected a deepmr.models.SequenceModel"), ("none", "cannot be loaded"),
                       (f"make:{tmp_path / 'none.pt'}", "found no file")):
        with pytest.raises(InputError, match=says):
            load_model(f"torch:my_models:{spec}")


WRAPPED = {"DataParallel": "module.", "compile": "_orig_mod.", "Lightning": "model.", "both": "model._orig_mod."}


@pytest.mark.parametrize("wrapped", WRAPPED)
@pytest.mark.parametrize("key", ["", "state_dict", "model_state_dict", "model"])
def test_weights_out_of_a_wrapper_and_a_checkpoint(tmp_path, monkeypatch, wrapped, key, trap):
    (tmp_path / "my_models.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    torch.manual_seed(0)
    weights = {"weight": torch.randn(2, 4, 30), "bias": torch.zeros(2)}
    named = {WRAPPED[wrapped] + k: v for k, v in weights.items()}
    torch.save({key: named, "epoch": 3, "optimizer": {"state": {}}, "settings": Trap(tmp_path / "sprung")} if key else named, tmp_path / "w.ckpt")
    x = dna(3, 30)
    want = np.einsum("ncl,tcl->nt", x, weights["weight"].numpy())
    assert np.allclose(load_model(f"torch:my_models:make:{tmp_path / 'w.ckpt'}").predict(x), want, atol=1e-5)


def test_what_a_checkpoint_holds_is_listed(tmp_path):
    tensors = {"w": torch.ones(2)}
    for held, says in (({"a": tensors, "ema": tensors, "epoch": 3}, r"a dict of a \(tensors by name\), ema \(tensors by name\), epoch \(int\)"),
                       ({"epoch": 3, "loss": 0.1}, r"a dict of epoch \(int\), loss \(float\), expected tensors by name"), ({}, "an empty dict")):
        torch.save(held, tmp_path / "c.pth")
        with pytest.raises(InputError, match=says):
            read_weights(tmp_path / "c.pth")


def test_after_weights_came_a_model_is_looked_at_again(tmp_path, monkeypatch):
    "With its own weights the network gives numbers between 0 and 1; with those of the file it does not."
    (tmp_path / "my_zero.py").write_text("from torch import nn\nfrom deepmr.models import adapt\ndef make():\n    net = nn.Conv1d(4, 2, 30)\n"
                                         "    nn.init.zeros_(net.weight); nn.init.zeros_(net.bias)\n"
                                         "    return adapt(net, ['a', 'b'], 30, 'mine', output_axes='NT1')\n")
    monkeypatch.syspath_prepend(tmp_path)
    save_file({"weight": torch.full((2, 4, 30), 3.0), "bias": torch.zeros(2)}, tmp_path / "w.safetensors")
    assert load_model("torch:my_zero:make").output == "probability"
    assert load_model(f"torch:my_zero:make:{tmp_path / 'w.safetensors'}").output == "value"


@pytest.mark.parametrize("file", ["dataparallel.pth", "compiled.pth", "lightning.ckpt", "lightning_hparams.ckpt", "model_key.pth", "tutorial.pth",
                                  "selene.pth.tar"])
def test_weights_as_users_bring_them(file, tmp_path, monkeypatch):
    if not (cases := SHARED / "cases" / "18").is_dir():
        pytest.skip("the cases are not on this machine")
    shutil.copytree(cases, tmp_path / "18")
    monkeypatch.syspath_prepend(tmp_path / "18")
    plain = load_model(f"torch:wnets:load:{tmp_path / '18' / 'model_key.pth'}")
    x = dna(2, 100)
    model = load_model(f"torch:wnets:load:{tmp_path / '18' / file}")
    assert np.isfinite(model.predict(x)).all() and model.predict(x).std() > 0 and model.labels == plain.labels


class Tracked(nn.Module):
    "Counts of G, weighted by a control track."

    def forward(self, x, track):
        return torch.stack([(x[:, 2] * track[:, 0]).sum(1), x[:, 2].sum(1)], 1)


def test_each_window_has_its_own_further_input():
    x, tracks = dna(5, 40, seed=3), np.random.default_rng(0).random((5, 1, 40)).astype(np.float32)
    model = adapt(Tracked(), ["weighted", "G"], 40, inputs=[tracks], windows=x)
    assert np.allclose(model.predict(x[::-1])[:, 0], (x[:, 2] * tracks[:, 0]).sum(1)[::-1], atol=1e-5)
    with pytest.raises(InputError, match="none of the 5 whose inputs model ensemble has"):
        mutation_effects(Ensemble([model, model]), dna(1, 40, seed=9), "weighted", "G")
    for engine in ("plain", "auto"):
        with warnings.catch_warnings(action="ignore"):
            effects = mutation_effects(Ensemble([model, model]), x[[3]], "weighted", "G", engine=engine)
        to_g = effects.bx.values[0, :, 2]
        assert np.allclose(to_g, np.where(x[3, 2] == 1, np.nan, tracks[3, 0]), atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("content", [b"", b"weights", b"\x80\x04N.", b"PK\x03\x04" + bytes(100), b"cos\nsystem\n(S'true'\ntR."])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_that_are_no_weights(tmp_path, content, suffix):
    (tmp_path / f"w{suffix}").write_bytes(content)
    with pytest.raises(InputError, match=r"^weights: "):
        read_weights(tmp_path / f"w{suffix}")


def test_a_download_is_used_only_if_it_is_the_right_file(server, tmp_path):
    url, folder = server
    (folder / "w").write_bytes(b"right")
    md5, kept = "md5:" + hashlib.md5(b"right").hexdigest(), tmp_path / "kept"
    assert fetch(f"{url}/w", md5, kept / "w").read_bytes() == b"right"
    (kept / "w").write_bytes(b"damaged later")
    assert fetch(f"{url}/w", md5, kept / "w").read_bytes() == b"right"
    (folder / "w").write_bytes(b"exchanged")
    assert fetch(f"{url}/w", md5, kept / "w").read_bytes() == b"right"  # is there, and not asked for again
    with pytest.raises(InputError, match=f"is not the file with {md5.replace(':', ' ')}"):
        fetch(f"{url}/w", md5, kept / "new")
    with pytest.raises(InputError, match=r"could not download .*/none to .*\(the server says 404"):
        fetch(f"{url}/none", md5, kept / "new")
    assert [f.name for f in kept.iterdir()] == ["w"]  # nothing wrong or half is left


# --- DeepSEA ----------------------------------------------------------------------------------------------------------

LABELS = [f"cell_{i}_None" for i in range(915)] + ["HepG2_CTCF_None"] * 4


def published():
    "DeepSEA as one chain of two-dimensional layers, with the numbering of Kipoi's files; no module of deepmr is used."
    floor = lambda: nn.Threshold(0, 1e-6)
    dense = lambda a, b: nn.Sequential(nn.Identity(), nn.Linear(a, b))
    return nn.Sequential(nn.Conv2d(4, 320, (1, 8)), floor(), nn.MaxPool2d((1, 4)), nn.Dropout(0.2),
                         nn.Conv2d(320, 480, (1, 8)), floor(), nn.MaxPool2d((1, 4)), nn.Dropout(0.2),
                         nn.Conv2d(480, 960, (1, 8)), floor(), nn.Dropout(0.5), nn.Flatten(),
                         dense(50_880, 925), floor(), dense(925, 919), nn.Sigmoid()).eval()


class Recode(nn.Module):
    def forward(self, x):
        return torch.stack([x[:, i] for i in (0, 2, 1, 3)], 1)


@pytest.fixture(scope="module")
def deepsea_files(tmp_path_factory):
    "Random weights in both layouts, with labels beside them; the network they are of."
    torch.manual_seed(0)
    net, folder = published(), tmp_path_factory.mktemp("deepsea")
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(3)
    for name, prefix in (("predict", "2."), ("variant", "1.")):
        torch.save({prefix + k: v for k, v in net.state_dict().items()}, folder / f"{name}.pth")
    (folder / "predictor_names.txt").write_text("\n".join(LABELS) + "\n")
    yield folder, net
    for file in folder.glob("*.pth"):
        file.unlink()


@torch.no_grad()
def by_hand(net, x, both_strands):
    "Predictions of the published chain: bases in the order AGCT, a dummy axis, one strand or the mean of two."
    one = lambda z: net(torch.from_numpy(np.ascontiguousarray(z[:, [0, 2, 1, 3]][:, :, None]))).numpy()
    return (one(x) + one(reverse_complement(x))) / 2 if both_strands else one(x)


@pytest.mark.parametrize("layout", ["predict", "variant"])
def test_deepsea_from_a_file_of_kipoi(deepsea_files, layout):
    folder, net = deepsea_files
    model, x = load_model(f"deepsea:{folder / layout}.pth"), dna(2, 1000)
    want = by_hand(net, x, layout == "predict")
    assert want.std() > 0.01 and np.allclose(model.predict(x), want, atol=1e-6)
    assert model.index("HepG2_CTCF_None#4") == 918 and model.length == 1000
    assert sum(p.numel() for p in model.module.parameters()) == 52_843_119

    columns = [3, 918]
    some = saturate(x[0])[np.array([0, 1, 1400, 1501, 2999])]
    masks = MaskSampler(model, seed=0)("w", 0)
    _, effects = Propagator(model, columns, check=False).draw(torch.from_numpy(x[0]), some, masks)
    _, plain = make_engine(model, columns, "plain").draw(torch.from_numpy(x[0]), some, masks)
    assert plain.abs().max() > 1e-4 and (effects - plain).abs().max() < 1e-5


def test_deepsea_says_what_is_missing(deepsea_files, tmp_path, monkeypatch, trap):
    folder, _ = deepsea_files
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    os.link(folder / "variant.pth", tmp_path / "variant.pth")
    with pytest.raises(InputError, match=r"found no predictor_names.txt .* expected the names of the model's 919 labels"):
        load_model(f"deepsea:{tmp_path / 'variant.pth'}")
    for spec in ("deepsea", "deepsea:variantEffects"):
        with pytest.raises(InputError, match=r"could not download .*predictor_names.txt to .*no answer; is there a network"):
            load_model(spec)
    (tmp_path / "predictor_names.txt").write_text("\n".join(LABELS))
    save_file({"2.0.weight": torch.ones(2)}, tmp_path / "w.safetensors")
    wrong = {f"2.{n}.{k}": torch.zeros(2) for n in ("0", "4", "8", "12.1", "14.1") for k in ("weight", "bias")}
    save_file(wrong, tmp_path / "wrong.safetensors")
    for name, says in (("none.pth", "found no file"), ("trap.pth", "could run code"), ("w.safetensors", "expected those of Kipoi's DeepSEA"),
                       ("wrong.safetensors", "do not fit DeepSEA")):
        with pytest.raises(InputError, match=says):
            load_model(f"deepsea:{tmp_path / name}")


def test_deepsea_by_download(deepsea_files, server, tmp_path, monkeypatch):
    (folder, net), (url, served) = deepsea_files, server
    os.link(folder / "variant.pth", served / "w.pth")
    cache = tmp_path / "cache"
    monkeypatch.setenv("DEEPMR_CACHE", str(cache))
    (cache / "deepsea").mkdir(parents=True)
    (cache / "deepsea" / "predictor_names.txt").write_text("\n".join(LABELS))
    md5 = hashlib.md5((served / "w.pth").read_bytes()).hexdigest()
    for known, fits in (("md5:" + "0" * 32, False), ("md5:" + md5, True)):
        monkeypatch.setitem(sys.modules["deepmr.models"].DEEPSEA_FILES, "predict", (f"{url}/w.pth", known))
        if fits:
            x = dna(1, 1000)
            assert np.allclose(load_model("deepsea").predict(x), by_hand(net, x, False), atol=1e-6)
        else:
            with pytest.raises(InputError, match="is not the file with md5"):
                load_model("deepsea")


# --- Kipoi ------------------------------------------------------------------------------------------------------------

MODEL_PY = "import pathlib\nimport torch.nn as nn\npathlib.Path('ran').touch()\n" \
           "class Toy(nn.Module):\n    def __init__(self, n):\n        super().__init__()\n" \
           "        self.net = nn.Sequential(nn.Conv2d(4, 8, (1, 8)), nn.ReLU(), nn.MaxPool2d((1, 4)), nn.Dropout(0.2),\n" \
           "                                 nn.Flatten(), nn.Linear(8 * 13, n))\n" \
           "    def forward(self, x):\n        return self.net(x)\n"
MODEL_YAML = """defined_as: kipoi.model.PyTorchModel
args: {module_file: model.py, module_class: Toy, module_kwargs: {n: 3}, weights: WEIGHTS}
default_dataloader:
  defined_as: kipoiseq.dataloaders.SeqIntervalDl
  default_args: {auto_resize_len: 60, alphabet_axis: 0, dummy_axis: 1}
info: {authors: [{name: A}], name: Toy, doc: toy, license: MIT}
schema:
  inputs: {name: seq, special_type: DNASeq, shape: "(4, 1, 60)", doc: sequence}
  targets: {name: p, shape: "(3, )", doc: numbers, column_labels: [labels.txt]}
"""


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(4, 8, (1, 8)), nn.ReLU(), nn.MaxPool2d((1, 4)), nn.Dropout(0.2), nn.Flatten(),
                                 nn.Linear(8 * 13, 3))

    def forward(self, x):
        return self.net(x)


@pytest.fixture
def kipoi_dir(tmp_path):
    "A directory as Kipoi keeps a model, and the network in it."
    torch.manual_seed(4)
    folder, net = tmp_path / "kipoi model", Toy().eval()
    folder.mkdir()
    (folder / "model.py").write_text(MODEL_PY)
    (folder / "model.yaml").write_text(MODEL_YAML.replace("WEIGHTS", "weights.pth"))
    (folder / "labels.txt").write_text("CTCF\nCTCF\nDNase\n")
    torch.save(net.state_dict(), folder / "weights.pth")
    return folder, net


def test_a_directory_of_kipoi(kipoi_dir, trap):
    need("kipoi", "kipoi (make zoo)")
    folder, net = kipoi_dir
    model, x = load_model(f"kipoi-dir:{folder}", trust_code=True), dna(3)
    assert model.addresses == ("CTCF#1", "CTCF#2", "DNase") and model.length == 60
    with torch.no_grad():
        assert np.allclose(model.predict(x), net(torch.from_numpy(x)[:, :, None]).numpy(), atol=1e-6)
    effects = {e: mutation_effects(model, dna(), "CTCF#2", "DNase", n_draws=3, engine=e) for e in ("plain", "propagate")}
    assert np.allclose(effects["plain"].bx, effects["propagate"].bx, atol=1e-5, equal_nan=True)
    (folder / "weights.pth").write_bytes(trap.read_bytes())
    (folder / "ran").unlink()
    with pytest.raises(InputError, match="could run code"):
        load_model(f"kipoi-dir:{folder}", trust_code=True)
    assert not (folder / "ran").exists()  # looked at before anything ran


def test_files_that_kipoi_fetches_are_checked_after_they_arrived(kipoi_dir, server):
    need("kipoi", "kipoi (make zoo)")
    (folder, _), (url, served) = kipoi_dir, server
    (folder / "weights.pth").rename(served / "w.pth")
    right = hashlib.md5((served / "w.pth").read_bytes()).hexdigest()
    for md5, fits in (("0" * 32, False), (right, True)):
        (folder / "model.yaml").write_text(MODEL_YAML.replace("WEIGHTS", f'{{url: "{url}/w.pth", md5: "{md5}"}}'))
        if fits:
            assert len(load_model(f"kipoi-dir:{folder}", trust_code=True).labels) == 3
        else:
            with pytest.raises(InputError, match="is not the file with md5"):
                load_model(f"kipoi-dir:{folder}", trust_code=True)


def test_nothing_of_kipoi_runs_without_trust(kipoi_dir):
    folder, _ = kipoi_dir
    for spec in ("kipoi:DeepSEA/predict", "kipoi:DeepSEA/variantEffects", f"kipoi-dir:{folder}"):
        with pytest.raises(InputError, match=r"runs the Python code of its authors, expected trust_code=True \(--trust-code\)"):
            load_model(spec)
        done = CliRunner().invoke(app, ["labels", spec])
        assert done.exit_code == 2 and "--trust-code" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (folder / "ran").exists()


def test_without_the_extra_the_error_names_it(kipoi_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "kipoi", None)
    with pytest.raises(InputError, match=r"needs the extra kipoi.*pip install 'deepmr\[kipoi\]'"):
        load_model(f"kipoi-dir:{kipoi_dir[0]}", trust_code=True)


def stand_in(monkeypatch, network, folder, kind="pytorch", inputs=(4, 1, 60), labels=("a", "b", "c"), **args):
    "A package `kipoi` that knows one model and counts how often it was asked for its network."
    schema = SimpleNamespace(inputs=SimpleNamespace(shape=inputs), targets=SimpleNamespace(shape=(len(labels),), column_labels=list(labels)))
    description = SimpleNamespace(type=kind, defined_as=None, args=args, schema=schema, default_dataloader=".")
    source = SimpleNamespace(pull_model=lambda name: None, get_model_descr=lambda name: description,
                             get_model_dir=lambda name: str(folder), get_model_download_dir=lambda name: str(folder / "downloaded"))
    kipoi, asked = ModuleType("kipoi"), []
    kipoi.get_source = lambda name: source
    kipoi.get_model = lambda name, source, with_dataloader: asked.append(name) or SimpleNamespace(model=network)
    monkeypatch.setitem(sys.modules, "kipoi", kipoi)
    return asked


def test_the_way_through_kipoi_without_kipoi(monkeypatch, kipoi_dir, server, trap):
    (folder, net), (url, served) = kipoi_dir, server
    asked = stand_in(monkeypatch, net, folder, weights="weights.pth", module_file="model.py")
    model, x = load_model("kipoi:Toy", trust_code=True), dna(2)
    with torch.no_grad():
        assert np.allclose(model.predict(x), net(torch.from_numpy(x)[:, :, None]).numpy(), atol=1e-6)
    assert model.labels == ("a", "b", "c") and asked == ["Toy"]
    (served / "w").write_bytes(b"other")
    remote = SimpleNamespace(url=f"{url}/w", md5="1" * 32)
    for change, says in ((dict(weights=remote), "is not the file with md5"), (dict(weights=str(trap)), "could run code"),
                         (dict(weights="weights.pth", kind="keras"), "defined as keras"), (dict(module_file="model.py"), "names no weights")):
        asked = stand_in(monkeypatch, net, folder, **change)
        with pytest.raises(InputError, match=says):
            load_model("kipoi:Toy", trust_code=True)
        assert asked == []  # its code was not run
    stand_in(monkeypatch, net, folder, weights="weights.pth", inputs=(4, 1, 50))
    with pytest.raises(InputError, match=r"does not take input of shape \(2, 4, 1, 50\)"):
        load_model("kipoi:Toy", trust_code=True)


def test_deepsea_by_way_of_kipoi_becomes_one_that_propagates(monkeypatch, deepsea_files):
    folder, net = deepsea_files
    whole = nn.Sequential(Recode(), net)  # as DeepSEA/variantEffects
    stand_in(monkeypatch, whole, folder, inputs=(4, 1, 1000), labels=LABELS, weights="variant.pth")
    model, x = load_model("kipoi:DeepSEA/variantEffects", trust_code=True), dna(2, 1000)
    assert isinstance(model.module.network, DeepSEA)
    assert np.allclose(model.predict(x), by_hand(net, x, False), atol=1e-6)
    other = nn.Sequential(nn.Identity(), net)  # the same weights on other bases are another model
    stand_in(monkeypatch, other, folder, inputs=(4, 1, 1000), labels=LABELS, weights="variant.pth")
    model = load_model("kipoi:DeepSEA/variantEffects", trust_code=True)
    with torch.no_grad():
        assert np.allclose(model.predict(x), net(torch.from_numpy(x)[:, :, None]).numpy(), atol=1e-6)


def test_specs_that_name_nothing():
    for spec, says in (("hepg3", "expected 'hepg2'"), (nn.Linear(1, 1), r"expected adapt\(network, labels, length\)"),
                       (lambda x: x, r"a function without labels, expected adapt"),
                       ([nn.Linear(1, 1)] * 2, r"expected adapt\(network, labels, length\)"),
                       ("torch:my.module", "expected .torch:package.module:factory"), ("kipoi-dir:/nowhere/at/all", "trust_code")):
        with pytest.raises(InputError, match=says):
            load_model(spec)


def test_no_module_opens_a_pickle():
    "Weights and checkpoints: torch.load always with weights_only=True, and no other way to run what a file says."
    package, trusted = Path(__file__).resolve().parents[1] / "deepmr", {"formats.py": 1}  # bpnet-lite's pickle, after `need_trust`
    for path in package.glob("*.py"):
        text = path.read_text()
        assert text.count("torch.load(") == text.count("weights_only=True)") + trusted.get(path.name, 0), path.name
        assert not re.search(r"pickle\.loads?\(|shell=True|os\.system|joblib", text), path.name


# --- functions of outputs, and inputs by name ---------------------------------------------------------------------------

class Profile(nn.Module):
    "Two tracks of a window's length, in a form that `how` names."

    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.how, self.conv = how, nn.Conv1d(4, 2, 9, padding=4)

    def forward(self, x):
        y = self.conv(x)
        whole = {"tensor": y, "positions first": y.transpose(1, 2), "one track": y[:, 0], "dict": {0: y}, "tuple": (y, y.sum(2))}
        return whole.get(self.how, SimpleNamespace(tracks=y))


@pytest.mark.parametrize("how, some, whole", [
    ("tensor", lambda y: y[:, :, 10], lambda y: y.mean(2)), ("positions first", lambda y: y[:, 10], lambda y: y.mean(1)),
    ("one track", lambda y: y[:, 10:12], lambda y: torch.stack([y.amax(1), y.sum(1)], 1)), ("dict", lambda y: y[0][:, :, 10], lambda y: y[0].mean(2)),
    ("tuple", lambda y: y[0][:, :, 10], lambda y: y[1]), ("object", lambda y: y.tracks[:, :, 10], lambda y: y.tracks.sum(2))])
def test_a_function_of_some_positions_is_refused_on_both_strands(how, some, whole):
    x = np.ascontiguousarray(np.eye(4, dtype=np.float32)[np.random.default_rng(0).integers(0, 4, (2, 40))].transpose(0, 2, 1))
    net = Profile(how)
    with pytest.raises(InputError, match="outputs: found a function of some positions of a profile with reverse_complement"):
        adapt(net, ["a", "b"], 40, outputs=some, reverse_complement=True)
    assert adapt(net, ["a", "b"], 40, outputs=some).predict(x).shape == (2, 2)
    both = adapt(net, ["a", "b"], 40, outputs=whole, reverse_complement=True)
    with torch.no_grad():
        want = (whole(net(torch.from_numpy(x))) + whole(net(torch.from_numpy(x).flip(1, 2)))) / 2
    assert np.allclose(both.predict(x), want, atol=1e-6)


def test_encode_may_name_inputs():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.out = nn.Embedding(9, 4), nn.Linear(4, 2)

        def forward(self, shift, attention_mask, input_ids):
            return self.out((self.embed(input_ids) * attention_mask[..., None]).sum(1)) + shift

    net, x = Masked(), np.ascontiguousarray(np.eye(4, dtype=np.float32)[np.random.default_rng(0).integers(0, 4, (2, 40))].transpose(0, 2, 1))
    encode = lambda x: {"input_ids": x.argmax(1) + 5, "attention_mask": torch.ones(len(x), 40)}
    model = adapt(net, ["a", "b"], 40, encode=encode, inputs=[torch.tensor([0.5])])
    with torch.no_grad():
        tokens = torch.from_numpy(x).argmax(1) + 5
        assert np.allclose(model.predict(x), net(0.5, torch.ones(2, 40), tokens), atol=1e-6)


@pytest.mark.parametrize("change, says", [(lambda y: y > 0, "type bool"), (lambda y: y.long(), "type int64"),
                                          (lambda y: torch.complex(y, y), "type complex64")])
def test_predictions_are_floating_point_numbers(change, says):
    with pytest.raises(InputError, match=f"found predictions of {says}, expected floating-point numbers; say of which, as in outputs="):
        adapt(nn.Sequential(nn.Flatten(), nn.Linear(160, 2)), ["a", "b"], 40, outputs=change)


def test_what_numbers_are_called_must_suit_them():
    net = nn.Sequential(nn.Flatten(), nn.Linear(160, 2))
    nn.init.constant_(net[1].bias, -3)
    with pytest.raises(InputError, match=r"output: found a prediction of -.* expected counts, which are not negative"):
        adapt(net, ["a", "b"], 40, output="count")
    with pytest.raises(InputError, match=r"output: found 'probabilty', expected one of probability, .*did you mean probability"):
        adapt(net, ["a", "b"], 40, output="probabilty")


@pytest.mark.parametrize("keys", [("checkpoint", "model"), ("model", "state_dict"), ("checkpoint", "model", "state_dict")])
def test_the_one_state_dict_deeper_in_a_checkpoint_is_found(tmp_path, keys):
    state = Toy().state_dict()
    held: dict = dict(state)
    for key in reversed(keys):
        held = {key: held, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}}
    torch.save(held, tmp_path / "a.pth")
    found = read_weights(tmp_path / "a.pth")
    assert found.keys() == state.keys() and all(torch.equal(found[k], state[k]) for k in state)


def test_a_number_with_a_zero_before_it_is_no_column():
    model = adapt(nn.Sequential(nn.Flatten(), nn.Linear(80, 3)), ["001", "1", "b"], 20)
    assert [model.index(k) for k in ("001", "1", "b", "0", "2")] == [0, 1, 2, 0, 2]
    for text in ("01", "02", "00"):
        with pytest.raises(InputError, match=f"^label: found '{text}', which model"):
            model.index(text)


def test_stored_results_are_of_the_networks_that_ship_and_hold_no_path_of_a_machine():
    root = Path(__file__).resolve().parents[1]
    table1, four_hundred = (json.loads((root / "results" / name / "run.json").read_text()) for name in ("hepg2", "four_hundred"))
    shipped = hashlib.sha256((root / "deepmr" / "data" / "hepg2.safetensors").read_bytes()).hexdigest()
    assert table1["weights_sha256"] == [shipped] and four_hundred["weights_sha256"] == table1["model_sha256"]
    files = [*(root / "results").rglob("*.json"), *(root / "benchmarks" / "results").glob("*.json")]
    assert not [path for path in files if re.search(r"/(home|root|Users|work|tmp)/", path.read_text())]
