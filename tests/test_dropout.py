"""Dropout, however it is written: under the same masks as nn.Dropout, or refused by name. And what a network must do to be asked."""
import copy
import functools
import hashlib
import math
import random
import re
import time
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import toy_model
from deepmr.adapters import adapt, background_ensemble, stack
from deepmr.core import InputError
from deepmr.dropout import MaskSampler, dropout_layers, shared_masks
from deepmr.effects import make_engine, mutation_effects, window_draws
from deepmr.mutagenesis import evolve
from deepmr.networks import Ensemble, SequenceModel

LENGTH = 40
pytestmark = pytest.mark.filterwarnings("ignore:.*using the plain engine, which is slower")


def dna(n=1, length=LENGTH, seed=0):
    "Random one-hot windows (n, 4, length)."
    return np.ascontiguousarray(np.eye(4, dtype=np.float32)[np.random.default_rng(seed).integers(0, 4, (n, length))].transpose(0, 2, 1))


def test_masks_of_ordinary_networks_are_those_of_all_stored_results():
    digest = hashlib.sha256()
    for draw in range(3):
        for name, mask in sorted(MaskSampler(toy_model(), 7)("chr1:0-120", draw).items()):
            digest.update(name.encode() + mask.numpy().tobytes())
    assert digest.hexdigest()[:16] == "c9492dcbb36227ec"


# --- one network, dropout written in many ways ------------------------------------------------------------------------

class Mine(nn.Dropout):
    "A subclass that is always on."

    def forward(self, x):
        return F.dropout(x, self.p, True)


class Net(nn.Module):
    "Convolution, mean, dropout as `how` says, and a dense layer."

    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.how, self.conv, self.out = how, nn.Conv1d(4, 8, 5), nn.Linear(8, 2)
        self.drop = Mine(0.5) if how == "subclass" else nn.Dropout(0.5, inplace=how == "inplace module")

    def forward(self, x):
        x = torch.relu(self.conv(x)).mean(-1)
        return self.out(self.dropped(x))

    def dropped(self, x):
        how = self.how
        if how in ("module", "subclass"):
            return self.drop(x)
        if how == "inplace module":
            self.drop(x)
            return x
        if how == "back to train":
            return self.drop.train()(x)
        if how == "functional":
            return F.dropout(x, 0.5, self.training)
        if how == "functional in place":
            F.dropout(x, 0.5, self.training, inplace=True)
            return x
        if how == "always on":
            return F.dropout(x, 0.5)
        if how == "only in training":
            return F.dropout(x, 0.5) if self.training else x
        if how == "module only in training":
            return self.drop(x) if self.training else x
        if how == "torch.dropout":
            return torch.dropout(x, 0.5, self.training)
        if how == "aten":
            return torch.ops.aten.dropout(x, 0.5, self.training)
        if how == "native":
            return torch.native_dropout(x, 0.5, self.training)[0]
        raise AssertionError(how)


WAYS = ["module", "subclass", "inplace module", "back to train", "functional", "functional in place", "always on", "only in training",
        "module only in training", "torch.dropout", "aten", "native"]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("engine", ["auto", "plain"])
def test_every_way_to_write_dropout_is_under_masks(how, engine):
    net = Net(how)
    model, x = adapt(net, ["a", "b"], LENGTH), dna()[0]
    sampler = MaskSampler(model, 3)
    (name, (p, shape)), = sampler.layers.items()
    assert p == 0.5 and shape == (8,)
    draws = window_draws(make_engine(model, [0, 1], engine), x, sampler, "w", 4, 1)
    for d in (0, 3):
        mask = sampler("w", d)[name]
        with torch.no_grad():
            x2 = torch.from_numpy(np.stack([x, *draws.mutations[np.array([5, 77])].apply(torch.from_numpy(x)).numpy()]))
            want = net.out(torch.relu(net.conv(x2)).mean(-1) * mask).numpy()
        assert np.allclose(draws.reference[d], want[0], atol=1e-6) and np.allclose(draws.effects[d][[5, 77]], want[1:] - want[0], atol=1e-6)
    with torch.no_grad():
        plain = net.out(torch.relu(net.conv(torch.from_numpy(dna(3)))).mean(-1)).numpy()
    assert np.array_equal(model.predict(dna(3)), plain)  # and a prediction is without dropout
    again = window_draws(make_engine(model, [0, 1], engine), x, MaskSampler(model, 3), "w", 4, 2)
    assert again.effects.tobytes() == draws.effects.tobytes()


class Off(Net):
    "Dropout that was switched off for good."

    def dropped(self, x):
        return self.drop(F.dropout(x, 0.9, training=False))


def test_dropout_switched_off_for_good_stays_off():
    assert list(dropout_layers(adapt(Off("module"), ["a", "b"], LENGTH))) == ["network.drop"]


class Twice(Net):
    def dropped(self, x):
        return self.drop(torch.relu(self.drop(x)))


def test_a_layer_that_is_used_twice_has_a_mask_for_each_use():
    model, x = adapt(Twice("module"), ["a", "b"], LENGTH), dna()[0]
    sampler, net = MaskSampler(model, 0), model.module.network
    assert list(sampler.layers) == ["network.drop", "network.drop#2"]
    masks = sampler("w", 1)
    assert not torch.equal(masks["network.drop"], masks["network.drop#2"])
    draws = window_draws(make_engine(model, [0]), x, sampler, "w", 2, 1)
    with torch.no_grad():
        y = torch.relu(net.conv(torch.from_numpy(x)[None])).mean(-1) * masks["network.drop"]
        want = net.out(torch.relu(y) * masks["network.drop#2"])[0, 0]
    assert np.allclose(draws.reference[1, 0], want, atol=1e-6)


# --- where the batch is ------------------------------------------------------------------------------------------------

class Layout(nn.Module):
    "Dropout where windows lie along another axis than the first."

    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.how, self.drop, self.out = how, nn.Dropout(0.5), nn.Linear(4, 2)

    def forward(self, x):
        n, c, l = x.shape
        if self.how == "sequence first":
            x = self.drop(x.permute(2, 0, 1)).permute(1, 2, 0)
        elif self.how == "windows and positions":
            x = self.drop(x.transpose(1, 2).reshape(n * l, c)).reshape(n, l, c).transpose(1, 2)
        elif self.how == "positions and windows":
            x = self.drop(x.permute(2, 0, 1).reshape(l * n, c)).reshape(l, n, c).permute(1, 2, 0)
        elif self.how == "positions, windows and positions":
            parts = self.drop(x.transpose(1, 2).reshape(n, 5, 8, c).transpose(0, 1).reshape(5 * n * 8, c))
            x = parts.reshape(5, n, 8, c).transpose(0, 1).reshape(n, l, c).transpose(1, 2)
        elif self.how == "batch last":
            x = self.drop(x.permute(1, 2, 0)).permute(2, 0, 1)
        return self.out((x * torch.arange(1, l + 1)).mean(-1))


@pytest.mark.parametrize("how, shape", [("sequence first", (LENGTH, 4)), ("windows and positions", (LENGTH, 4)),
                                        ("positions and windows", (LENGTH, 4)), ("positions, windows and positions", (LENGTH, 4)),
                                        ("batch last", (4, LENGTH))])
@pytest.mark.parametrize("both_strands", [False, True])
def test_the_batch_axis_is_found(how, shape, both_strands):
    net = Layout(how)
    model, x = adapt(net, ["a", "b"], LENGTH, reverse_complement=both_strands), torch.from_numpy(dna(3))
    sampler = MaskSampler(model, 0)
    assert sampler.layers == {"network.drop": (0.5, shape)}
    mask = sampler("w", 0)["network.drop"]
    mask = mask.T if shape[0] == LENGTH else mask
    at = lambda x: net.out((x * mask * torch.arange(1, LENGTH + 1)).mean(-1))
    with torch.no_grad(), shared_masks(model.module, sampler("w", 0)):
        got = model.module(x)
    with torch.no_grad():
        want = (at(x) + at(x.flip(1, 2))) / 2 if both_strands else at(x)
    assert torch.allclose(got, want, atol=1e-5)


class OfOnes(nn.Module):
    "Dropout of ones, in which windows and positions cannot be told apart, with the positions first."

    def forward(self, x):
        n, _, l = x.shape
        mask = F.dropout(torch.ones(l * n, 1), 0.5, self.training).reshape(l, n, 1).permute(1, 2, 0)
        return (x * mask).mean(-1)[:, :2]


def test_masks_that_would_lie_elsewhere_in_a_batch_are_refused():
    with pytest.raises(InputError, match=r"found dropout at network:dropout of which it cannot be told where each window's numbers lie"):
        dropout_layers(adapt(OfOnes(), ["a", "b"], LENGTH))


class Strands(nn.Module):
    "A network that sends both strands itself."

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv1d(4, 8, 5), nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 2))

    def forward(self, x):
        forward, backward = self.net(torch.cat([x, x.flip(1, 2)])).chunk(2)
        return (forward + backward) / 2


def test_strands_that_a_network_sends_itself_share_their_masks():
    model = adapt(Strands(), ["a", "b"], LENGTH)
    assert dropout_layers(model) == {"network.net.2": (0.5, (8, LENGTH - 4))}
    fast, plain = (mutation_effects(model, dna(), "a", "b", 3, engine=e) for e in ("propagate", "plain"))
    assert np.allclose(fast.bx, plain.bx, atol=1e-6, equal_nan=True)


class OnWeights(Net):
    "Dropout on a parameter."

    def dropped(self, x):
        return x

    def forward(self, x):
        x = torch.relu(self.conv(x)).mean(-1)
        return F.linear(x, F.dropout(self.out.weight, 0.5, self.training), self.out.bias)


def test_dropout_on_a_parameter_is_one_mask():
    model = adapt(OnWeights("module"), ["a", "b"], LENGTH)
    sampler, net, x = MaskSampler(model, 0), model.module.network, torch.from_numpy(dna(2))
    assert sampler.layers == {"network:dropout": (0.5, (2, 8))}
    with torch.no_grad(), shared_masks(model.module, sampler("w", 0)):
        got = model.module(x)
    with torch.no_grad():
        want = F.linear(torch.relu(net.conv(x)).mean(-1), net.out.weight * sampler("w", 0)["network:dropout"], net.out.bias)
    assert torch.allclose(got, want, atol=1e-6)


# --- attention and recurrent layers -----------------------------------------------------------------------------------

class Attends(nn.Module):
    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.how, self.embed, self.out = how, nn.Linear(4, 8), nn.Linear(8, 2)
        if how in ("batch first", "sequence first"):
            self.core = nn.MultiheadAttention(8, 2, dropout=0.4, batch_first=how == "batch first")
        elif how == "encoder":
            self.core = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.4, batch_first=True), 2)
        elif how.split()[-1] in ("LSTM", "GRU"):
            self.core = getattr(nn, how.split()[-1])(8, 4, 3, dropout=0.4, batch_first=True, bidirectional=True)

    def forward(self, x):
        x = self.embed(x.transpose(1, 2))
        if self.how == "sequence first":
            x = self.core(*[x.transpose(0, 1)] * 3, need_weights=False)[0].transpose(0, 1)
        elif self.how == "batch first":
            x = self.core(x, x, x)[0]
        elif self.how == "encoder":
            x = self.core(x)
        elif self.how == "sdpa":
            x = F.scaled_dot_product_attention(x, x, x, dropout_p=0.4 if self.training else 0.0)
        elif self.how == "sdpa always on":
            x = F.scaled_dot_product_attention(x, x, x, dropout_p=0.4)
        elif self.how in ("LSTM", "GRU"):
            x = self.core(x)[0]
        elif self.how.startswith("packed"):
            lengths = torch.full((len(x),), x.shape[1])
            x = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            x = nn.utils.rnn.pad_packed_sequence(self.core(x)[0], batch_first=True)[0]
        return self.out(x.amax(1))


@pytest.mark.parametrize("how, n", [("batch first", 1), ("sequence first", 1), ("encoder", 8), ("sdpa", 1), ("sdpa always on", 1),
                                    ("LSTM", 2), ("GRU", 2), ("packed LSTM", 2), ("packed GRU", 2)])
def test_dropout_inside_an_operation_is_under_masks(how, n):
    net = Attends(how)
    model, x = adapt(net, ["a", "b"], LENGTH), dna()[0]
    sampler = MaskSampler(model, 1)
    assert len(sampler.layers) == n and {p for p, _ in sampler.layers.values()} == {0.4}
    draws = window_draws(make_engine(model, [0, 1]), x, sampler, "w", 6, 1)
    again = window_draws(make_engine(model, [0, 1]), x, sampler, "w", 6, 2)
    assert draws.effects.tobytes() == again.effects.tobytes() and np.ptp(draws.reference, 0).min() > 1e-3
    shares = [(sampler("w", d)[name] > 0).float().mean() for d in range(6) for name in sampler.layers]
    assert abs(np.mean(shares) - 0.6) < 0.1
    with torch.no_grad():  # with nothing dropped: what the network says without dropout
        masks = sampler("w", 0)
        for mask in masks.values():
            mask.fill_(1)
        with shared_masks(model.module, masks):
            kept = model.module(torch.from_numpy(dna(3))).numpy()
    assert np.allclose(kept, model.predict(dna(3)), atol=1e-5)


def test_attention_under_masks_by_hand():
    net = Attends("sdpa")
    model, x = adapt(net, ["a", "b"], LENGTH), torch.from_numpy(dna(2))
    masks = MaskSampler(model, 0)("w", 0)
    (name, mask), = masks.items()
    with torch.no_grad(), shared_masks(model.module, masks):
        got = model.module(x)
    with torch.no_grad():
        z = net.embed(x.transpose(1, 2))
        weights = torch.softmax(z @ z.transpose(1, 2) / math.sqrt(8), -1) * mask
        assert torch.allclose(got, net.out((weights @ z).amax(1)), atol=1e-5)
    assert name == "network:weights" and not net.training


@pytest.mark.parametrize("how", ["batch first", "encoder", "LSTM", "packed GRU", "sdpa"])
def test_as_shipped_the_plain_engine_gives_the_bits_of_a_plain_pass(how):
    net = Attends(how)
    model, x = adapt(net, ["a", "b"], LENGTH), dna()[0]
    draws = window_draws(make_engine(model, [0, 1], "plain", 1), x, lambda *_: {}, "w", 1, 1)
    with torch.no_grad():
        reference = net(torch.from_numpy(x)[None])
        mutants = torch.cat([net(part) for part in draws.mutations.apply(torch.from_numpy(x)).split(64)])
    assert torch.equal(torch.from_numpy(draws.effects[0]), mutants - reference)


@pytest.mark.parametrize("how", [w for w in WAYS if w not in ("aten", "native")])
def test_as_shipped_any_dropout_is_no_reason_for_the_plain_engine(how):
    net = Net(how)
    model, x = adapt(net, ["a", "b"], LENGTH), dna()[0]
    engine = make_engine(model, [0, 1], "propagate", 1)
    draws = window_draws(engine, x, lambda *_: {}, "w", 1, 1)
    mutants = draws.mutations.apply(torch.from_numpy(x)).numpy()
    assert np.allclose(draws.effects[0], model.predict(mutants) - model.predict(x[None]), atol=1e-6)
    if not all(name == "network.drop" for name in dropout_layers(model)):  # it was not built for masks
        with pytest.raises(InputError, match="is not a layer with the batch along its first axis"):
            engine.draw(torch.from_numpy(x), draws.mutations, MaskSampler(model, 0)("w", 0))


# --- what is refused, by name ------------------------------------------------------------------------------------------

class ByHand(Net):
    def dropped(self, x):
        return self.drop(x * (torch.rand_like(x) > 0.5) * 2 if self.training else x)


class Alpha(Net):
    def dropped(self, x):
        return F.alpha_dropout(x, 0.5, self.training)


class DropPath(nn.Module):
    def forward(self, x):
        return x * x.new_empty(len(x), 1).bernoulli_(0.5) if self.training else x


class Path(Net):
    def __init__(self, how):
        super().__init__(how)
        self.path = DropPath()

    def dropped(self, x):
        return self.drop(self.path(x))


class RareOrFew(Net):
    "Drops by few numbers, or by numbers that torch's functions do not give, beside an nn.Dropout."

    def __init__(self, how):
        super().__init__("module")
        self.by, self.rng = how, np.random.default_rng(0)

    def dropped(self, x):
        x = self.drop(x)
        if not self.training:
            return x
        if self.by == "a window at a time":
            return x * x.new_empty(len(x), 1).bernoulli_(0.5)
        if self.by == "one number":
            return x if torch.rand(1) < 0.8 else 0 * x
        if self.by == "python":
            return x if random.random() < 0.8 else 0 * x
        if self.by == "nothing comes of it":
            return x if torch.rand([]) < 2 and random.random() < 2 else 0 * x
        kept = (np.random.random(x.shape) if self.by == "numpy" else self.rng.random(x.shape)) > 0.5  # noqa: NPY002
        return x * torch.from_numpy(kept).to(x.dtype)


@pytest.mark.parametrize("by, says", [("a window at a time", "of bernoulli_ in network"), ("one number", "of rand in network"),
                                      ("python", "from outside torch"), ("numpy", "from outside torch"), ("a generator", "from outside torch")])
def test_dropout_by_other_random_numbers_is_refused(by, says):
    model = adapt(RareOrFew(by), ["a", "b"], LENGTH)
    with pytest.raises(InputError, match=f"found random numbers {says} in training mode that change predictions"):
        mutation_effects(model, dna(), "a", "b", n_draws=2)


def test_random_numbers_of_which_nothing_comes_are_left_alone():
    assert list(dropout_layers(adapt(RareOrFew("nothing comes of it"), ["a", "b"], LENGTH))) == ["network.drop"]


def test_functional_dropout_beside_a_buffer():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("code", torch.linspace(-1, 1, 5))

        def forward(self, x):
            return F.dropout(x + self.code[0], 0.5, self.training)

    class Both(Net):
        def __init__(self):
            super().__init__("module")
            self.positions = Positions()

        def dropped(self, x):
            return self.drop(self.positions(x))

    net = Both()
    found = {name: p for name, (p, _) in dropout_layers(adapt(net, ["a", "b"], LENGTH)).items()}
    assert found == {"network.positions:dropout": 0.5, "network.drop": 0.5}


@pytest.mark.parametrize("net, says", [
    (lambda: ByHand("module"), r"found rand_like in network \(ByHand\) in training mode, which looks like dropout written by hand"),
    (lambda: Alpha("module"), "found alpha dropout in network, expected nn.Dropout"),
    (lambda: Path("module"), r"found bernoulli_ in network.path \(DropPath\)"),
    (lambda: torch.compile(Net("module"), backend="eager"), r"found a compiled network \(network\), whose dropout cannot be seen"),
    (lambda: torch.jit.trace(Net("module").eval(), torch.from_numpy(dna(2))), r"found a scripted network \(network\), whose dropout cannot be seen")])
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_dropout_that_cannot_be_masked_is_refused_by_name(net, says):
    model = adapt(net(), ["a", "b"], LENGTH)
    with pytest.raises(InputError, match=says):
        mutation_effects(model, dna(), "a", "b", n_draws=2)
    with pytest.raises(InputError, match=re.match("found (an? )?[a-z_]+", says)[0]):
        mutation_effects(stack([model, adapt(Net("module"), ["c", "d"], LENGTH)]), dna(), "a", "d", n_draws=2)


# --- taking a network up ------------------------------------------------------------------------------------------------

class Bad(Net):
    def forward(self, x):
        y = super().forward(x.clone())
        if self.how == "noise":
            return y + torch.randn(len(x), 1)
        if self.how == "batch":
            return y - y.mean(0)
        if self.how == "largest":
            return y / y.abs().max()
        if self.how == "a little of the batch":
            return y + 1e-3 * y.mean(0)
        if self.how == "batch, beside a large number":
            return 1000 + y + y.mean(0)
        if self.how == "if one has no A":
            return 2 * y if bool((x[:, 0].mean(1) < 0.15).any()) else y
        if self.how == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                return self.out(y[:, :1].expand(-1, 8)).float()
        if self.how == "half":
            return y.half()
        if self.how == "not finite":
            return y / x[:, 0, 1:2]  # the first window that is tried has an A there, the second has none
        if self.how == "batch, of five":
            return y - y.mean(0) if len(y) > 4 else y
        if self.how == "row, of a large batch":
            return torch.cat([y[:40], y[40:] + y[:1]]) if len(y) > 40 else y
        if self.how == "few":
            assert len(y) < 5, "four at most"
        if self.how == "input":
            x.zero_()
        if self.how == "weights":
            with torch.no_grad():
                self.out.bias.add_(1)
        if self.how == "buffer":
            self.seen += len(x)
        return y

    def dropped(self, x):
        return x


@pytest.mark.parametrize("how, says", [
    ("noise", r"two different predictions for the same window \(randn in network\)"),
    ("batch", "different predictions for a window alone and in a batch"),
    ("largest", "different predictions for a window alone and in a batch"),
    ("a little of the batch", "different predictions for a window alone and in a batch"),
    ("batch, beside a large number", "different predictions for a window alone and in a batch"),
    ("if one has no A", "different predictions for a window alone and in a batch"),
    ("autocast", r"numbers in half precision \(linear in network.out\)"), ("half", r"numbers in half precision \(half in network\)"),
    ("not finite", "a prediction that is not a finite number"),
    ("batch, of five", "different predictions for a window alone and in a batch"),
    ("row, of a large batch", "different predictions for a window alone and in a batch"),
    ("few", "a network that takes two windows but not [0-9]+ .*four at most"),
    ("input", "a network that writes to its input"), ("weights", "changes network.out.bias in a forward pass"),
    ("buffer", "changes network.seen in a forward pass")])
def test_a_network_that_would_give_wrong_numbers_is_refused(how, says):
    net = Bad(how)
    net.register_buffer("seen", torch.zeros(()))
    with pytest.raises(InputError, match=says):
        adapt(net, ["a", "b"], LENGTH)


class Seeded(Net):
    "Seeds and draws random numbers in each pass."

    def forward(self, x):
        torch.manual_seed(0)
        return super().forward(x + 0.1 * torch.randn(4, 1))


def test_a_network_that_seeds_gives_the_same_bytes_for_any_number_of_threads():
    model, x = adapt(Seeded("module"), ["a", "b"], LENGTH), dna()[0]
    assert model.seeds and not adapt(Net("module"), ["a", "b"], LENGTH).seeds
    draws = [window_draws(make_engine(model, [0, 1], "plain"), x, MaskSampler(model, 0), "w", 8, n).effects.tobytes() for n in (1, 4, 4)]
    assert len(set(draws)) == 1


def test_what_is_tried_does_not_depend_on_the_clock(monkeypatch):
    sizes = []
    net = Net("module")
    net.register_forward_pre_hook(lambda m, args: sizes.append(len(args[0])))
    adapt(net, ["a", "b"], LENGTH)
    assert 64 in sizes
    first = sizes[:]
    sizes.clear()
    monkeypatch.setattr(time, "perf_counter", lambda: sizes.append(0) or 0.0)
    adapt(net, ["a", "b"], LENGTH)
    assert sizes == first


class Remembers(Net):
    def forward(self, x):
        if self.how == "first window" and not hasattr(self, "background"):
            self.background = x.mean(0, keepdim=True)
        if self.how == "windows by number":
            self.sums = getattr(self, "sums", {})
            self.sums.setdefault(len(x), x.mean(0, keepdim=True))
            return super().forward(x - self.sums[len(x)])
        if self.how == "positions" and not hasattr(self, "wave"):
            self.wave = torch.arange(x.shape[2]).sin()
        if self.how == "calls":
            self.calls = getattr(self, "calls", 0) + 1
        return super().forward(x - getattr(self, "background", getattr(self, "wave", 0)))

    def dropped(self, x):
        return x


@pytest.mark.parametrize("how", ["first window", "windows by number"])
def test_a_network_that_remembers_what_it_saw_is_refused(how):
    with pytest.raises(InputError, match=r"depend on the windows seen before|alone and in a batch"):
        adapt(Remembers(how), ["a", "b"], LENGTH)


@pytest.mark.parametrize("how", ["positions", "calls"])
def test_what_a_network_keeps_of_itself_does_no_harm(how):
    model = adapt(Remembers(how), ["a", "b"], LENGTH)
    x = dna()
    before = model.predict(x)
    np.testing.assert_allclose(model.predict(x[::-1])[::-1], before, rtol=1e-5)


def test_batch_statistics_are_refused():
    net = nn.Sequential(nn.Conv1d(4, 8, 5), nn.BatchNorm1d(8, track_running_stats=False), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
                        nn.Linear(8, 2))
    with pytest.raises(InputError, match="as BatchNorm without running statistics does"):
        adapt(net, ["a", "b"], LENGTH)


def normed():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(4, 8, 5), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3))
    net[1].running_mean.normal_()
    net[1].running_var.uniform_(0.5, 2)
    return net


@pytest.mark.parametrize("engine", ["auto", "plain"])
@pytest.mark.parametrize("enclosed", [False, True])
def test_no_training_mode_at_any_call(engine, enclosed):
    net = normed()
    model = adapt((lambda x: net(x)[:, :2]) if enclosed else nn.Sequential(net, nn.Linear(3, 2)), ["a", "b"], LENGTH)
    assert not net.training
    before = {k: v.clone() for k, v in net.state_dict().items()}
    right, said = mutation_effects(model, dna(), "a", "b", 3, engine=engine), model.predict(dna(2))
    net.train()
    again = mutation_effects(model, dna(), "a", "b", 3, engine=engine)
    net.train()
    assert np.array_equal(said, model.predict(dna(2))) and np.array_equal(right.bx, again.bx, equal_nan=True)
    assert float(right.bxse.max()) > 0
    net.train()
    mutation_effects(background_ensemble(model, 2), dna(), "a", "b", engine=engine)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


NET = normed()


class Holder:
    def __init__(self, net):
        self.net = net

    def __call__(self, x):
        return self.net(x)[:, :2]

    def method(self, x):
        return self(x)


@pytest.mark.parametrize("make", [lambda net: Holder(net), lambda net: Holder(net).method,
                                  lambda net: functools.partial(lambda n, x: n(x)[:, :2], net),
                                  lambda net: (lambda x, nets=[net]: nets[0](x)[:, :2]), lambda net: (lambda x: (lambda z: net(z))(x)[:, :2])])
def test_networks_of_a_function_are_found(make):
    net = normed().train()
    model = adapt(make(net), ["a", "b"], LENGTH)
    assert not net.training and len(dropout_layers(model)) == 1 and len(list(model.module.parameters())) == 6


def test_a_global_network_of_a_function_is_found():
    NET.train()
    model = adapt(lambda x: NET(x)[:, :2], ["a", "b"], LENGTH)
    assert not NET.training and list(dropout_layers(model)) == ["network.networks.0.3"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_goes_to_float32(dtype):
    net = Net("module").to(dtype)
    model, full = adapt(net, ["a", "b"], LENGTH), adapt(copy.deepcopy(net).float(), ["a", "b"], LENGTH)
    assert model.dtype == torch.float32 and net.conv.weight.dtype == dtype  # the caller's network stays as it is
    assert np.array_equal(model.predict(dna(2)), full.predict(dna(2)))
    with pytest.raises(InputError, match="half precision"):
        adapt(lambda x: net(x.to(dtype)), ["a", "b"], LENGTH)


def test_windows_in_any_form_are_taken_and_never_written_to(toy):
    x = dna(2, 120)
    want = mutation_effects(toy, x, 0, 2, 2).bx.values
    frozen = x.copy()
    frozen.setflags(write=False)
    for form in (x[:, ::-1].copy()[:, ::-1], torch.tensor(x, requires_grad=True), torch.from_numpy(x), np.asfortranarray(x), x.astype(bool), frozen):
        assert np.array_equal(mutation_effects(toy, form, 0, 2, 2).bx.values, want, equal_nan=True)
        assert np.array_equal(toy.predict(form), toy.predict(x))
    assert np.array_equal(x, dna(2, 120))

    class Late(nn.Module):
        "Writes to its input when it is a batch of more than two."

        def forward(self, x):
            y = x[:, :2].mean(-1)
            if len(x) > 2:
                x.zero_()
            return y

    kept = dna(3)
    adapt(Late(), ["a", "b"], LENGTH).predict(kept)
    assert np.array_equal(kept, dna(3))


def test_a_network_that_wants_dna_is_tried_out_with_dna():
    class Strict(Net):
        def forward(self, x):
            assert bool((x.sum(1) == 1).all()), "no DNA"
            return super().forward(x / x.sum(1, keepdim=True))

    assert float(mutation_effects(adapt(Strict("module"), ["a", "b"], LENGTH), dna(), "a", "b", 2).bxse.max()) > 0


# --- both strands --------------------------------------------------------------------------------------------------------

def test_positions_of_the_other_strand_are_counted_from_its_other_end():
    net = nn.Conv1d(4, 1, 9, padding=4)
    model, x = adapt(net, ["a"], LENGTH, reduce="mean", positions=(10, 20), reverse_complement=True), torch.from_numpy(dna(3))
    with torch.no_grad():
        want = (net(x) + net(x.flip(1, 2)).flip(2))[..., 10:20].mean(-1) / 2
    assert np.allclose(model.predict(dna(3)), want, atol=1e-6)
    far = x.clone()
    far[:, :, 33] = far[:, :, 33].roll(1, 1)
    assert np.array_equal(model.predict(far), model.predict(x))


def test_strands_of_a_track_change_places_or_are_refused():
    core = nn.Conv1d(4, 1, 9, padding=4)

    class Symmetric(nn.Module):
        def forward(self, x):
            return torch.cat([core(x), core(x.flip(1, 2)).flip(2)], 1)

    labels, x = ["plus", "minus"], dna(3)
    one = adapt(Symmetric(), labels, LENGTH, reduce="max").predict(x)
    both = adapt(Symmetric(), labels, LENGTH, reduce="max", reverse_complement=True, swap=[("plus", "minus")]).predict(x)
    assert np.allclose(one, both, atol=1e-6)
    for names in (labels, ["CTCF (+)", "CTCF (-)"], ["CTCF_fwd", "CTCF_rev"], ["rna_positive", "rna_negative"]):
        with pytest.raises(InputError, match=r"swap: found labels .* which look like two strands, expected swap=\["):
            adapt(Symmetric(), names, LENGTH, reduce="max", reverse_complement=True)
    mean = adapt(Symmetric(), labels, LENGTH, reduce="max", reverse_complement=True, swap=[]).predict(x)
    assert np.allclose(mean, one.mean(1, keepdims=True), atol=1e-6)
    with pytest.raises(InputError, match="expected pairs of the labels"):
        adapt(Symmetric(), labels, LENGTH, reduce="max", reverse_complement=True, swap=[("plus", "other")])


def test_members_and_views_are_tried_out_once():
    counted = []

    class Counted(Net):
        def forward(self, x):
            counted.append(len(x))
            return super().forward(x)

    members = [SequenceModel(Counted("module"), ["a", "b"], LENGTH) for _ in range(3)]
    tried = len(counted)
    Ensemble(members)
    assert len(counted) == tried + 3


# --- what a network reads and gives ----------------------------------------------------------------------------------------

class SpliceLike(nn.Module):
    "(N, 3 classes, positions), as a named tuple with an attention."

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.passes, self.conv, self.drop = 0, nn.Conv1d(4, 3, 9, padding=4), nn.Dropout(0.3)

    def forward(self, x):
        self.passes += 1
        return Output(self.drop(self.conv(x)), x.mean((1, 2)))


class Output(NamedTuple):
    splicing: torch.Tensor
    other: torch.Tensor


def test_two_positions_of_one_output_are_two_labels_of_one_pass():
    net = SpliceLike()
    model = adapt(net, ["donor", "acceptor"], LENGTH, outputs=lambda y: torch.softmax(y.splicing, 1)[:, [1, 2], [10, 30]])
    x, net.passes = dna(3), 0
    got = model.predict(x)
    with torch.no_grad():
        want = torch.softmax(net.conv(torch.from_numpy(x)), 1)
    assert net.passes == 1 and np.array_equal(got, torch.stack([want[:, 1, 10], want[:, 2, 30]], 1).numpy())
    assert model.output == "probability"
    effects = mutation_effects(model, dna(), "donor", "acceptor", 4)
    assert float(effects.bxse.max()) > 0 and effects.attrs["output"] == "probability"
    profile = adapt(net, ["n", "donor", "acceptor"], LENGTH, outputs="splicing", reduce="max", output="logit")
    assert profile.output == "logit" and profile.threshold("donor") == 0


@pytest.mark.parametrize("outputs", ["b", ["b"], lambda y: y["b"]])
def test_parts_of_a_dict(outputs):
    model = adapt(lambda x: {"a": x.sum((1, 2)), "b": x[:, :1].sum(-1)}, ["A"], LENGTH, outputs=outputs, output="count")
    assert np.array_equal(model.predict(dna(2))[:, 0], dna(2)[:, 0].sum(-1)) and model.output == "count"
    old = adapt(lambda x: {"a": x.sum((1, 2)), "count": x[:, :1].sum(-1)}, ["A"], LENGTH, output="count")  # the word was a part's name first
    assert np.array_equal(old.predict(dna(2)), model.predict(dna(2))) and old.output == "value"


def test_values_are_never_called_probabilities():
    shifted = lambda by, **options: adapt(nn.Sequential(Net("module"), Shift(by)), ["a", "b"], LENGTH, **options)
    assert shifted(-50.0).output == shifted(50.0).output == "value" and shifted(-50.0, output="logit").output == "logit"
    with pytest.raises(InputError, match=r"output: found predictions from -?\d.* expected probabilities between 0 and 1"):
        shifted(-50.0, output="probability")
    with pytest.raises(InputError, match="output: found 'probabilities' beside outputs, expected one of probability, logit"):
        shifted(0.0, outputs=lambda y: y, output="probabilities")
    logit = shifted(-50.0, output="logit", thresholds={"a": -3.0})
    assert logit.threshold("a") == -3 and logit.threshold("b") == 0
    with pytest.raises(InputError, match="thresholds: found none for 'a'"):
        shifted(50.0, output="count").threshold("a")
    assert stack([logit, shifted(50.0, output="count")]).output == "value" and background_ensemble(logit, 2).output == "logit"
    assert mutation_effects(logit, dna(), "a", "b", 2).attrs["output"] == "logit"


class Shift(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        return x + self.by


class Tracks(nn.Module):
    "Tokens and a further track."

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.drop, self.out = nn.Embedding(4, 8), nn.Dropout(0.4), nn.Linear(8, 2)

    def forward(self, tokens, track):
        return self.out(self.drop((self.embed(tokens) * track.transpose(1, 2)).mean(1)))


@pytest.mark.filterwarnings("ignore:.*computed in full from")
def test_tokens_and_further_inputs():
    net, track = Tracks(), torch.rand(1, LENGTH)
    model, x = adapt(net, ["a", "b"], LENGTH, encode=lambda x: x.argmax(1), inputs=[track]), dna(3)
    with torch.no_grad():
        want = net(torch.from_numpy(x.argmax(1)), track.expand(3, 1, LENGTH)).numpy()
    assert np.array_equal(model.predict(x), want)
    effects = mutation_effects(model, dna(), "a", "b", 3, keep_draws=True)
    plain = mutation_effects(model, dna(), "a", "b", 3, engine="plain")
    np.testing.assert_allclose(effects.bx, plain.bx, atol=1e-6)
    assert float(effects.bxse.max()) > 0
    with pytest.raises(InputError, match="without a gradient, so windows cannot be evolved"):
        evolve(model, "a", threshold=9.0)


def test_labels_that_a_model_brings():
    assert adapt(Net("module"), {1: "open", 0: "TF"}, LENGTH).labels == ("TF", "open")
    with pytest.raises(InputError, match="expected the numbers 0 to 1"):
        adapt(Net("module"), {1: "open", 2: "TF"}, LENGTH)
    with pytest.raises(InputError, match=r"found an option 'ouputs', expected .*; did you mean output"):
        adapt(Net("module"), ["a", "b"], LENGTH, ouputs=1)


def test_dropout_of_keras_is_refused_by_name(monkeypatch):
    "Where Keras is installed. It keeps its layers to itself, and only its own training mode switches them on."
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "torch":
        pytest.skip("Keras was imported with another backend")

    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            make = keras.layers
            self.net = keras.Sequential([make.Input((20, 4)), make.Conv1D(3, 5), make.Dropout(0.2), make.Flatten(), make.Dense(2)])

        def forward(self, x):
            return self.net(x.transpose(1, 2))

    with pytest.raises(InputError, match=r"found Keras' Dropout \(net\.dropout.*\) with dropout 0\.2, which only Keras can switch on"):
        dropout_layers(SequenceModel(Around(), ["a", "b"], 20))
