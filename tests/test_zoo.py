"""Networks of other libraries, in small: their own classes, files and tokenizers. Each test says which package it lacks, if it lacks one.

Some of these packages want other versions than their neighbours; `make zoo` tests those in an environment of their own.
"""
import importlib.util
import json
import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from conftest import SHARED, need
from deepmr.adapters import adapt
from deepmr.cli import app
from deepmr.core import InputError
from deepmr.dropout import MaskSampler, dropout_layers
from deepmr.effects import make_engine, mutation_effects
from deepmr.models import load_model
from deepmr.mutagenesis import saturate
from deepmr.networks import ConvNet, Ensemble

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning:torch.onnx",
                                        "ignore::UserWarning:keras", "ignore:.*using the plain engine")
DRAGONN = SHARED / "models" / "mpra_dragonn"


def dna(n=1, length=60, seed=0):
    "Random one-hot windows (n, 4, length)."
    return np.ascontiguousarray(np.eye(4, dtype=np.float32)[np.random.default_rng(seed).integers(0, 4, (n, length))].transpose(0, 2, 1))


def both_engines(model, x, columns, masked=True, some=None):
    "Largest effect of the plain way, and largest difference of the engine that `auto` takes, relative to it."
    mutations = saturate(x)
    mutations = mutations if some is None else mutations[some]
    masks = MaskSampler(model, seed=1)("w", 0) if masked else {}
    reference, plain = make_engine(model, columns, "plain").draw(torch.from_numpy(x), mutations, masks)
    fast_reference, fast = make_engine(model, columns, "auto").draw(torch.from_numpy(x), mutations, masks)
    assert torch.allclose(reference, fast_reference, atol=1e-4 * float(reference.abs().max()))
    return float(plain.abs().max()), float((fast - plain).abs().max() / plain.abs().max())


# --- Keras ------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def keras():
    os.environ.setdefault("KERAS_BACKEND", "torch")
    os.environ.setdefault("KERAS_TORCH_DEVICE", "cpu")
    return need("keras", "the extra keras")


def branched(keras, length=60, rate=0.2, last="sigmoid"):
    "A network of Keras with branches, both kinds of padding, pooling, and dropout; its statistics are moved away from 0 and 1."
    layers = keras.layers
    keras.utils.set_random_seed(1)
    x = first = layers.Input((length, 4))
    x = layers.Conv1D(12, 7, padding="same", use_bias=False)(x)
    x = layers.Activation("relu")(layers.BatchNormalization()(x))
    x = layers.Dropout(rate)(layers.MaxPooling1D(2)(x))
    for dilation in (1, 2):
        y = layers.Conv1D(12, 3, padding="same", dilation_rate=dilation, activation="relu")(x)
        x = layers.Add()([x, layers.SpatialDropout1D(rate)(y)])
    z = layers.Conv1D(6, 4, strides=2, padding="same")(x)
    x = layers.Concatenate()([layers.Flatten()(layers.Cropping1D(2)(x)), layers.GlobalMaxPooling1D()(z)])
    model = keras.Model(first, layers.Dense(3, activation=last)(layers.Dense(16, activation="relu")(x)))
    for weight in model.weights:
        if "moving_variance" in weight.path:
            weight.assign(np.full(weight.shape, 2.0))
        elif "moving_mean" in weight.path:
            weight.assign(np.linspace(-0.5, 0.5, weight.shape[0]))
    return model


def as_keras_says(model, x):
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        return model(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 2, 1))), training=False).numpy()


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_a_network_of_keras_from_its_file(keras, tmp_path, suffix):
    made = branched(keras)
    made.save(tmp_path / f"net.{suffix}")
    (tmp_path / "labels.txt").write_text("TF\nother\nopen\n")
    model, x = load_model(f"keras:{tmp_path / f'net.{suffix}'}"), dna(4)
    assert (model.labels, model.length, model.output) == (("TF", "other", "open"), 60, "probability")
    assert np.allclose(model.predict(x), as_keras_says(made, x), atol=1e-6)
    assert sorted(p for p, _ in dropout_layers(model).values()) == pytest.approx([0.2] * 3)
    with pytest.warns(UserWarning, match="model net: computed in full from cat on"):  # and still faster than plain passes
        size, error = both_engines(model, x[0], [0, 2])
    assert size > 1e-3 and error < 1e-4
    assert load_model(str(tmp_path / f"net.{suffix}")).labels == model.labels  # the ending says what it is


def test_a_layer_that_is_not_translated_leaves_the_network_to_keras(keras, tmp_path):
    layers = keras.layers
    model = keras.Sequential([layers.Input((60, 4)), layers.Conv1D(8, 5, activation="relu"), layers.LayerNormalization(), layers.Flatten(),
                              layers.Dense(2)])
    model.save(tmp_path / "net.keras")
    loaded, x = load_model(f"keras:{tmp_path / 'net.keras'}"), dna(3)
    assert type(loaded.module.network).__name__ == "KerasNetwork" and loaded.output == "value" and loaded.labels == ("output 0", "output 1")
    assert np.allclose(loaded.predict(x), as_keras_says(model, x), atol=1e-6)
    effects = mutation_effects(Ensemble([loaded, loaded]), x[:1], 0, 1)
    changed = saturate(x[0])[:1].apply(torch.from_numpy(x[0])).numpy()
    at = [int(v[0]) for v in (saturate(x[0]).position, saturate(x[0]).alt)]
    assert float(effects.bx.values[0, at[0], at[1]]) == pytest.approx(float((loaded.predict(changed) - loaded.predict(x[:1]))[0, 0]), abs=1e-6)


def test_a_file_of_keras_runs_no_code(keras, tmp_path):
    touch = str(tmp_path / "ran")
    layers = keras.layers
    trap = layers.Lambda(lambda x: (open(touch, "w").close(), x)[1], output_shape=(60, 4))
    model = keras.Sequential([layers.Input((60, 4)), trap, layers.Flatten(), layers.Dense(1)])
    for name in ("net.keras", "net.h5"):
        model.save(tmp_path / name)
        Path(touch).unlink(missing_ok=True)
        with pytest.raises(InputError, match="cannot be read as a Keras model without code"):
            load_model(f"keras:{tmp_path / name}")
        assert not Path(touch).exists()


def test_a_keras_profile_needs_a_card(keras, tmp_path):
    layers = keras.layers
    model = keras.Sequential([layers.Input((60, 4)), layers.Conv1D(8, 5, activation="relu"), layers.Conv1D(2, 3)])
    model.save(tmp_path / "net.keras")
    with pytest.raises(InputError, match=r"found an output that is shape \(2, 54, 2\) for two windows.*say outputs, output_axes and reduce"):
        load_model(f"keras:{tmp_path / 'net.keras'}")
    (tmp_path / "net.toml").write_text('labels = ["TF", "open"]\noutput_axes = "NPT"\nreduce = "sum"\npositions = [10, 30]\noutput = "log count"\n')
    loaded, x = load_model(f"keras:{tmp_path / 'net.keras'}"), dna(2)
    assert loaded.output == "log count" and np.allclose(loaded.predict(x), as_keras_says(model, x)[:, 10:30].sum(1), atol=1e-5)


@pytest.fixture
def dragonn(keras):
    if not DRAGONN.is_dir():
        pytest.skip("MPRA-DragoNN's weights are not on this machine")
    return load_model(f"keras:{DRAGONN / 'pretrained.hdf5'}")


def test_mpra_dragonn_with_its_published_weights(dragonn):
    "By hand, from the numbers in the file: no module of Keras or deepmr computes what is compared."
    import h5py
    x = dna(5, 145)
    y = torch.from_numpy(x)
    with h5py.File(DRAGONN / "pretrained.hdf5") as f:
        get = lambda layer, name: torch.from_numpy(np.array(f[layer][layer][f"{name}:0"]))
        for i in (1, 2, 3):
            y = torch.relu(nn.functional.conv1d(y, get(f"conv1d_{i}", "kernel").permute(2, 1, 0), get(f"conv1d_{i}", "bias")))
            norm = f"batch_normalization_{i}"
            y = nn.functional.batch_norm(y, get(norm, "moving_mean"), get(norm, "moving_variance"), get(norm, "gamma"), get(norm, "beta"), eps=1e-3)
        want = y.transpose(1, 2).flatten(1) @ get("dense_1", "kernel") + get("dense_1", "bias")
    assert want.std() > 0.05 and np.allclose(dragonn.predict(x), want.numpy(), atol=1e-5)
    assert (dragonn.output, dragonn.length, len(dragonn.labels)) == ("value", 145, 12)  # log expression is no probability
    assert [p for p, _ in dropout_layers(dragonn).values()] == pytest.approx([0.1] * 3)
    size, error = both_engines(dragonn, x[0], [2, 8])
    assert size > 0.01 and error < 1e-4


# --- ONNX, torch.export, TorchScript ----------------------------------------------------------------------------------

CONFIG = dict(n_labels=3, channels=(12, 12), kernels=(7, 3), pools=(4, 2), conv_dropout=(0.2, 0.2), hidden=16, hidden_dropout=0.3, length=60)


def convnet(seed=0):
    "A network whose predictions depend on the sequence."
    torch.manual_seed(seed)
    net = ConvNet(**CONFIG).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(2)
    return net


def card(path, **options):
    path.with_suffix(".toml").write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in options.items()))
    return path


LABELS = ["X_TF1_None", "X_TF2_None", "X_DNase_None"]


def as_onnx(net, path):
    need("onnx", "the extra onnx")
    if importlib.util.find_spec("onnx2torch") is None:  # load_model imports it, with or without the torchvision that it wants
        need("onnx2torch", "the extra onnx (make zoo)")
    torch.onnx.export(net, (torch.zeros(2, 4, 60),), str(path), dynamo=False, opset_version=17, input_names=["x"], output_names=["y"],
                      dynamic_axes={"x": {0: "n"}, "y": {0: "n"}})
    return "onnx", path


def as_export(net, path):
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    torch.export.save(torch.export.export(net, (torch.zeros(2, 4, 60),), dynamic_shapes=({0: batch},)), str(path))
    return "pt2", path


def as_script(net, path):
    torch.jit.save(torch.jit.trace(net, torch.zeros(2, 4, 60)), str(path))
    return "torchscript", path


def as_keras(net, path):
    keras = need("keras", "the extra keras")
    made = branched(keras, rate=0.0)
    torch.manual_seed(int(path.stem[-1]))
    for weight in made.weights[:1]:
        weight.assign(np.random.default_rng(int(path.stem[-1])).normal(size=weight.shape))
    made.save(path)
    return "keras", path


FILES = {"onnx": (as_onnx, "onnx"), "pt2": (as_export, "pt2"), "torchscript": (as_script, "pt"), "keras": (as_keras, "keras")}


@pytest.fixture(params=FILES)
def two_files(request, tmp_path):
    "Two networks in files of a kind, with cards beside them: their names for `load_model`, and the networks."
    save, ending = FILES[request.param]
    nets, specs = [convnet(seed) for seed in (0, 1)], []
    for i, net in enumerate(nets):
        with warnings.catch_warnings(action="ignore"):
            kind, path = save(net, tmp_path / f"net{i}.{ending}")
        card(path, labels=LABELS, length=60)
        specs.append(f"{kind}:{path}")
    return specs, nets


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:model .* computed in full from cat on")  # Keras: a flattened map beside a maximum
def test_networks_in_files_are_asked_from_the_shell(two_files, toy_files):
    specs, nets = two_files
    kind, trust = specs[0].partition(":")[0], [] if specs[0].partition(":")[0] in ("keras", "onnx") else ["--trust-code"]
    if trust:  # nothing of the file runs before the user says so
        for command in (["labels", specs[0]], ["table1", "--model", specs[0]]):
            done = CliRunner().invoke(app, command)
            assert done.exit_code == 2 and "expected trust_code=True (--trust-code)" in done.stderr and len(done.stderr.splitlines()) == 1
    done = CliRunner().invoke(app, ["labels", specs[0], *trust])
    assert done.exit_code == 0 and [line.split("\t")[2] for line in done.stdout.splitlines()[1:]] == LABELS, done.output
    x = dna(4)
    if kind != "keras":
        for spec, net in zip(specs, nets):
            with torch.no_grad():
                assert np.allclose(load_model(spec, trust_code=bool(trust)).predict(x), net(torch.from_numpy(x)).numpy(), atol=1e-5)
    question = ["--model", ",".join(specs), "--outcome", LABELS[2], "--regions", str(toy_files / "sites.bed"), "--genome", str(toy_files / "g.fa")]
    done = CliRunner().invoke(app, ["table1", *question, "--out", str(toy_files / "out"), "--windows", "2", "--workers", "1", *trust])
    assert done.exit_code == 0 and (toy_files / "out" / "table1.csv").is_file(), done.output


def test_what_an_exported_network_hides_is_said(two_files):
    specs, _ = two_files
    model = load_model(specs[0], trust_code=True)
    with pytest.raises(InputError, match="dropout"):
        mutation_effects(model, dna(), LABELS[0], LABELS[2], 5)


def test_a_file_for_one_window_at_a_time_says_how_to_export_it(tmp_path):
    torch.export.save(torch.export.export(convnet(), (torch.zeros(1, 4, 60),)), str(tmp_path / "one.pt2"))
    with pytest.raises(InputError, match=r"takes 1 windows at a time, expected any number: export it with a dynamic first axis"):
        load_model(f"pt2:{tmp_path / 'one.pt2'}", trust_code=True)
    (tmp_path / "text.pt").write_text("no program")
    for kind in ("pt2", "torchscript", "onnx", "grelu"):
        with pytest.raises(InputError, match=r"cannot be read as|needs the extra"):
            load_model(f"{kind}:{tmp_path / 'text.pt'}", trust_code=True)


# --- ONNX ---------------------------------------------------------------------------------------------------------------

class Middle(nn.Module):
    "Slices by shapes, a maximum and a mean over positions, group and layer normalisation, GELU, and padding to the same length."

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.layer, self.last = nn.Conv1d(4, 8, 6, padding="same"), nn.GroupNorm(2, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        y = nn.functional.gelu(self.norm(self.conv(x)))
        y = self.layer(y.transpose(1, 2)).transpose(1, 2)
        n = y.shape[-1]
        return self.last(y[:, :, n // 2 - 10:n // 2 + 10].amax(-1) + y[:, :, ::3].mean(-1))


class Recurring(nn.Module):
    def __init__(self):
        super().__init__()
        self.core, self.last = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.core(x.transpose(1, 2))[0].mean(1))


def exported(net, path, opset=None, today=True):
    "As torch.onnx writes it today, or as it did before."
    as_onnx(convnet(), path)  # the packages are there
    if today:
        need("onnxscript", "onnxscript (make zoo)")
    how = dict(dynamic_shapes=({0: torch.export.Dim("n")},), verbose=False) if today else dict(dynamic_axes={"x": {0: "n"}})
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(net.eval(), (torch.zeros(2, 4, 60),), str(path), input_names=["x"], opset_version=opset, dynamo=today, **how)
    return f"onnx:{card(path, labels=LABELS, length=60)}"


@pytest.mark.parametrize("make", [convnet, Middle])
@pytest.mark.parametrize("opset, today", [(None, True), (18, True), (21, True), (17, False), (18, False), (20, False)])
def test_every_version_of_onnx_that_torch_writes_is_right(make, opset, today, tmp_path):
    net, x = make().eval(), dna(4)
    model = load_model(exported(net, tmp_path / "net.onnx", opset, today))
    with torch.no_grad():
        assert np.allclose(model.predict(x), net(torch.from_numpy(x)).numpy(), atol=1e-5)


def test_an_operation_that_cannot_be_converted_is_named(tmp_path):
    with pytest.raises(InputError, match=r"has an operation LSTM that cannot be written in the operations which onnx2torch reads"):
        load_model(exported(Recurring(), tmp_path / "net.onnx", 17, False))


def test_a_wrong_conversion_is_refused(tmp_path, monkeypatch):
    spec = exported(convnet(), tmp_path / "net.onnx", 17, False)
    load_model(spec)
    converter = sys.modules["onnx2torch"].convert

    def wrong(graph):
        network = converter(graph)
        with torch.no_grad():
            next(network.parameters()).mul_(1.1)
        return network

    monkeypatch.setattr(sys.modules["onnx2torch"], "convert", wrong)
    with pytest.raises(InputError, match="differs from what ONNX says of two windows"):
        load_model(spec)


# --- HuggingFace ------------------------------------------------------------------------------------------------------

@pytest.fixture
def bert(tmp_path):
    "A BERT for two labels with a tokenizer of letters, saved as transformers saves it, and the network."
    transformers = need("transformers", "the extra hf")
    folder = tmp_path / "bert"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "A", "C", "G", "T", *(f"##{b}" for b in "ACGT")]
    (folder / "vocab.txt").write_text("\n".join(words))
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    letters = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    letters.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    named = dict(unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]")
    transformers.PreTrainedTokenizerFast(tokenizer_object=letters, **named).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
                                     initializer_range=0.4, max_position_embeddings=40, id2label={0: "TF", 1: "open"}, label2id={"TF": 0, "open": 1},
                                     problem_type="multi_label_classification", hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    net = transformers.BertForSequenceClassification(config).eval()
    net.save_pretrained(folder)
    (folder / "deepmr.toml").write_text("length = 30\n")
    return folder, net


def test_a_bert_on_tokens(bert):
    (folder, net), x = bert, dna(3, 30)
    model = load_model(f"hf:{folder}")
    assert (model.labels, model.output, model.name) == (("TF", "open"), "logit", "bert")
    tokens = torch.tensor([[2, *(5 + row.argmax(0)), 3] for row in x])
    with torch.no_grad():
        assert np.allclose(model.predict(x), net(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits.numpy(), atol=1e-5)
    assert len(dropout_layers(model)) == 8  # after the embeddings, of the pooled state, and three in each of two layers
    size, error = both_engines(model, x[0], [0, 1])
    assert size > 1e-3 and error < 1e-4
    done = CliRunner().invoke(app, ["labels", f"hf:{folder}"])
    assert done.exit_code == 0 and done.stdout.splitlines()[1:] == ["0\tTF\tTF", "1\topen\topen"]


def test_what_transformers_brings_of_its_own_is_not_run(bert):
    folder, _ = bert
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForSequenceClassification": "mine.Model"}}))
    (folder / "mine.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    with pytest.raises(InputError, match="brings Python code of its own, expected trust_code=True"):
        load_model(f"hf:{folder}")
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertForMaskedLM"]}))
    with pytest.raises(InputError, match="is a BertForMaskedLM, expected one for sequence classification"):
        load_model(f"hf:{folder}")
    assert not (folder / "ran").exists()


# --- bpnet-lite, gReLU, Enformer, Borzoi ------------------------------------------------------------------------------

@pytest.fixture
def bpnetlite():
    return need("bpnetlite", "bpnet-lite (make zoo)")


def small_bpnet(bpnetlite, seed=0, control=2, outputs=2):
    torch.manual_seed(seed)
    return bpnetlite.BPNet(n_filters=8, n_layers=3, n_outputs=outputs, n_control_tracks=control, trimming=20, verbose=False).eval()


def test_bpnet_from_its_own_file(bpnetlite, tmp_path):
    net, x = small_bpnet(bpnetlite), dna(3, 200)
    path = card(tmp_path / "ctcf.torch", length=200)
    torch.save(net, path)
    with pytest.raises(InputError, match="is a pickle, which could run code when it is opened, expected trust_code=True"):
        load_model(f"bpnet:{path}")
    model = load_model(f"bpnet:{path}", trust_code=True)
    with torch.no_grad():
        want = net(torch.from_numpy(x), torch.zeros(3, 2, 200))[1].numpy()
    assert (model.labels, model.output) == (("ctcf",), "log count") and np.allclose(model.predict(x), want, atol=1e-6)


@pytest.mark.filterwarnings("ignore:model .* computed in full")  # the share of a profile needs all of its positions
def test_bpnet_gives_counts_and_profile_from_one_pass(bpnetlite):
    "The module's two outputs as three labels; its control tracks as a further input."
    net, (x,) = small_bpnet(bpnetlite), dna(1, 200)
    tracks = torch.rand(2, 200, generator=torch.Generator().manual_seed(1))
    passes = []
    net.register_forward_hook(lambda *_: passes.append(1))
    share = lambda y: torch.cat([y[1], torch.softmax(y[0].flatten(1), 1).reshape(y[0].shape)[:, :, 60:100].sum(2)], 1)
    model = adapt(net, ["count", "plus", "minus"], 200, "bpnet", inputs=[tracks], outputs=share, output="value")
    passes.clear()
    y = model.predict(x[None])
    assert len(passes) == 1
    with torch.no_grad():
        profile, count = net(torch.from_numpy(x)[None], tracks[None])
    assert np.allclose(y[0, 0], count.numpy(), atol=1e-6)
    assert np.allclose(y[0, 1:], torch.softmax(profile.flatten(), 0).reshape(2, -1)[:, 60:100].sum(1).numpy(), atol=1e-6)
    size, error = both_engines(model, x, [0, 1], masked=False)
    assert size > 1e-4 and error < 1e-3


def test_chrombpnet_is_asked_for_its_counts(bpnetlite, tmp_path):
    both = bpnetlite.ChromBPNet(small_bpnet(bpnetlite, 1, 0, 1), small_bpnet(bpnetlite, 2, 0, 1)).eval()
    torch.save(both, card(tmp_path / "atac.torch", length=200))
    model, x = load_model(str(tmp_path / "atac.torch"), trust_code=True), dna(2, 200)
    with torch.no_grad():
        assert np.allclose(model.predict(x), both(torch.from_numpy(x))[1].reshape(2, 1).numpy(), atol=1e-6)
    size, error = both_engines(model, x[0], [0], masked=False)
    assert size > 1e-4 and error < 1e-3


def test_tangermeme_gives_the_same_effects(bpnetlite):
    "Its saturation mutagenesis of bpnet-lite's own class, one forward pass each and its fast way, against both of deepmr's."
    tangermeme = need("tangermeme.saturation_mutagenesis", "the extra controls")
    from bpnetlite.bpnet import CountWrapper
    net, (x,) = small_bpnet(bpnetlite, control=0), dna(1, 300)
    model, mutations, took = adapt(net, ["count"], 300, outputs=1), saturate(x), {}
    for name, draw in (("deepmr, plain", make_engine(model, [0], "plain")), ("deepmr", make_engine(model, [0], "auto"))):
        start = time.process_time()
        _, effects = draw.draw(torch.from_numpy(x), mutations, {})
        took[name] = time.process_time() - start
        found = np.zeros((4, 300), np.float32)
        found[mutations.alt, mutations.position] = effects[:, 0]
        for fast in (False, True):
            start = time.process_time()
            raw = tangermeme.saturation_mutagenesis(CountWrapper(net), torch.from_numpy(x)[None], raw_outputs=True, device="cpu", fast=fast)
            took[f"tangermeme, {'fast' if fast else 'plain'}"] = time.process_time() - start
            theirs = (raw.y_hat[0, ..., 0] - raw.y0[0, 0]).numpy()
            assert theirs.shape == found.shape and np.abs(theirs).max() > 1e-4
            assert np.abs(theirs - found).max() < 1e-3 * np.abs(theirs).max()
    print(", ".join(f"{name} {seconds:.2f} s" for name, seconds in took.items()))


def test_a_checkpoint_of_grelu(tmp_path):
    grelu = need("grelu.model.models", "gReLU (make zoo)")
    torch.manual_seed(0)
    sizes = dict(n_tasks=2, stem_channels=8, stem_kernel_size=9, n_conv=3, channel_init=8, dilation_mult=2, residual=True, norm=True, dropout=0.1,
                 final_pool_func="avg")
    net, x = grelu.ConvModel(**sizes).eval(), dna(3, 100)
    held = {"state_dict": {f"model.{k}": v for k, v in net.state_dict().items()}, "epoch": 1,
            "hyper_parameters": {"model_params": {"model_type": "ConvModel", **sizes}, "train_params": {"task": "binary", "loss": "bce", "lr": 1e-3}},
            "data_params": {"tasks": {"name": ["TF", "open"]}, "train": {"seq_len": 100}}, "performance": {"auroc": np.float64(0.9)}}
    torch.save(held, tmp_path / "best.ckpt")
    model = load_model(f"grelu:{tmp_path / 'best.ckpt'}")
    with torch.no_grad():
        assert np.allclose(model.predict(x), torch.sigmoid(net(torch.from_numpy(x)))[..., 0].numpy(), atol=1e-6)
    assert (model.labels, model.length, model.output) == (("TF", "open"), 100, "probability") and dropout_layers(model)
    size, error = both_engines(model, x[0], [0, 1])
    assert size > 1e-5 and error < 1e-3


def test_enformer_in_small():
    enformer_pytorch = need("enformer_pytorch", "enformer-pytorch (make zoo)")
    torch.manual_seed(0)
    net = enformer_pytorch.Enformer.from_hparams(dim=48, depth=1, heads=2, target_length=2, output_heads={"human": 3}, num_downsamples=4,
                                                 dim_divisible_by=12, attn_dropout=0.05, pos_dropout=0.01, dropout_rate=0.4).eval()
    model, x = adapt(net, ["a", "b", "c"], 128, "enformer", axes="NLC", outputs="human", output_axes="NPT", reduce="sum", output="count"), dna(2, 128)
    with torch.no_grad():
        assert np.allclose(model.predict(x), net(torch.from_numpy(x.transpose(0, 2, 1).copy()))["human"].sum(1).numpy(), rtol=1e-4, atol=1e-5)
    assert dropout_layers(model)
    size, error = both_engines(model, x[0], [0, 2], some=np.arange(0, 384, 24))
    assert size > 1e-5 and error < 1e-3


@pytest.mark.long
def test_borzoi_in_small():
    borzoi_pytorch = need("borzoi_pytorch", "the extra zoo")
    from borzoi_pytorch.config_borzoi import BorzoiConfig
    torch.manual_seed(0)
    sizes = dict(dim=1536, depth=1, heads=2, attn_dim_key=8, attn_dim_value=16, bins_to_return=16, return_center_bins_only=True)
    net = borzoi_pytorch.Borzoi(BorzoiConfig(**sizes)).eval()
    length = 4096
    model = adapt(net, {0: "RNA", 1: "CAGE"}, length, "borzoi", outputs=lambda y: y[:, [0, 5]].sum(2), output="count")
    x = dna(1, length)
    with torch.no_grad():
        assert np.allclose(model.predict(x), net(torch.from_numpy(x))[:, [0, 5]].sum(2).numpy(), rtol=1e-4)
    assert model.output == "count" and any(p > 0 for p, _ in dropout_layers(model).values())
