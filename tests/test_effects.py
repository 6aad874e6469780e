"""Masks and effects: rule 2 (same seed, same bytes, whatever the batch, threads and order) and exactness."""
import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from conftest import toy_experiment, toy_model
from deepmr import propagate
from deepmr.answer import PROTOCOLS, causal_effect
from deepmr.core import Execution, InputError
from deepmr.dropout import MaskSampler, shared_masks
from deepmr.effects import make_engine, mutation_effects, replica, summarise, window_draws
from deepmr.experiment import plan
from deepmr.mutagenesis import random_windows, saturate
from deepmr.networks import ConvNet, Ensemble, SequenceModel, max_batch_size, memory_for
from deepmr.pipeline import run
from deepmr.propagate import Propagator, Window
from deepmr.regions import one_hot
from deepmr.tables import table1

QUIET = Execution(announce=lambda line: None)


def dna(length, seed):
    return one_hot("".join(np.random.default_rng(seed).choice(list("ACGT"), length)))[0]


@given(st.integers(0, 2**40), st.text(max_size=12), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_masks_are_a_pure_function(seed, window, draw):
    model = toy_model()
    first, again = MaskSampler(model, seed), MaskSampler(toy_model(seed=9), seed)  # the weights do not matter
    [again(w, d) for w, d in ((window + "x", draw), (window, draw + 1))]  # nor does what was drawn before
    for layer, mask in first(window, draw).items():
        assert mask.numpy().tobytes() == again(window, draw)[layer].numpy().tobytes()
        p, shape = first.layers[layer]
        assert mask.shape == shape and set(mask.unique().tolist()) <= {0.0, float(np.float32(1) / np.float32(1 - p))}


def test_masks_are_independent_over_draws_layers_and_windows(toy):
    sampler = MaskSampler(toy, 0)
    keep = np.array([sampler.keep("w", d, "features.3").ravel() for d in range(300)], float)
    assert abs(np.corrcoef(keep.T)[np.triu_indices(keep.shape[1], 1)]).mean() < 1.2 * np.sqrt(2 / np.pi / 300)
    a, b = (np.concatenate([sampler.keep(w, d, "features.7").ravel() for d in range(300)]) for w in ("w", "v"))
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(a.size)


@pytest.mark.parametrize("batch", [1, 7, 64, 1000])
def test_effects_do_not_depend_on_the_batch(toy, batch):
    x, model = dna(120, 1), toy_model()
    model.module.double()
    reference = window_draws(make_engine(model, [0, 2], "plain"), x, MaskSampler(model), "w", 3)
    model.batch = batch
    other = window_draws(make_engine(model, [0, 2], "plain"), x, MaskSampler(model), "w", 3)
    np.testing.assert_allclose(other.effects, reference.effects, atol=1e-14)


class Tight(nn.Module):
    "A network that runs out of memory for more than `most` sequences at once."

    def __init__(self, network, most, error):
        super().__init__()
        self.network, self.most = network, most
        self.kind, self.words = type(error), str(error)  # raised anew each time: a traceback would be copied with the network

    def forward(self, x):
        if len(x) > self.most:
            raise self.kind(self.words)
        return self.network(x)


OUT = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory")]


class Whole(nn.Module):
    "Sums of whole numbers, which no order of adding changes."

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.register_buffer("w", torch.randint(-9, 10, (480, 3), generator=torch.Generator().manual_seed(0)).float())

    def forward(self, x):
        return self.drop(x.flatten(1)) @ self.w


@pytest.mark.filterwarnings("ignore:Out of memory")
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("error", OUT, ids=["gpu", "cpu"])
@pytest.mark.parametrize("most, batch", [(40, 32), (9, 8), (1, 1)])
@pytest.mark.parametrize("off", [0, 1e-6], ids=["exact", "rounded"])
def test_where_memory_runs_out_the_batch_is_halved(toy, most, batch, off, error, workers):
    x = dna(120, 1)
    toy = toy if off else SequenceModel(Whole(), toy.labels, 120)
    tight = SequenceModel(Tight(toy.module, most, error), toy.labels, 120)
    sampler = MaskSampler(tight)
    want = window_draws(make_engine(SequenceModel(Tight(toy.module, 999, error), toy.labels, 120), [0, 2], "plain"), x, sampler, "w", 3, workers)
    got = window_draws(make_engine(tight, [0, 2], "plain"), x, sampler, "w", 3, workers)
    assert np.abs(got.effects).max() > 1e-4 and np.abs(got.effects - want.effects).max() <= off
    assert tight.predict(np.stack([x] * 50)).shape == (50, 3) and tight.batch == batch
    with pytest.warns(UserWarning, match="Out of memory at batch size 64; retrying with 32. The last bits may differ."):
        SequenceModel(Tight(toy.module, most, error), toy.labels, 120).predict(np.stack([x] * 64))


@pytest.mark.filterwarnings("ignore:Out of memory")
@pytest.mark.parametrize("error", [*OUT, RuntimeError("a bug"), ValueError("out of memory")])
def test_one_sequence_that_does_not_fit_is_one_error_and_other_errors_stay(toy, error):
    tight = SequenceModel(Tight(toy.module, 2 if error in OUT else 99, error), toy.labels, 120)
    engine, sampler = make_engine(tight, [0, 2], "plain"), MaskSampler(tight)
    tight.module.most = 0
    want = (InputError, "memory ran out for one sequence at a time") if error in OUT else (type(error), str(error))
    with pytest.raises(want[0], match=want[1]):
        window_draws(engine, dna(120, 1), sampler, "w", 2, 1)


@pytest.mark.filterwarnings("ignore:Out of memory")
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("most", [70, 7, 1])
def test_where_memory_runs_out_fewer_positions_are_propagated_at_once(toy, most, workers, monkeypatch):
    x, sampler = dna(120, 1), MaskSampler(toy)
    want = window_draws(Propagator(toy, [0, 2]), x, sampler, "w", 4, workers)
    engine, whole = Propagator(toy, [0, 2]), Window.draw
    assert engine.block == 120

    def draw(self, masks):
        if max(n for _, n, _ in self.blocks) > most:
            raise OUT[0]
        return whole(self, masks)

    monkeypatch.setattr(Window, "draw", draw)
    got = window_draws(engine, x, sampler, "w", 4, workers)
    assert np.abs(got.effects - want.effects).max() < 1e-6 and most / 2 < engine.block <= most
    most = 0
    with pytest.raises(InputError, match="memory ran out"):
        window_draws(engine, x, sampler, "w", 4, workers)


def test_on_a_gpu_the_batch_follows_what_is_free(toy, monkeypatch):
    "No GPU here: its memory is told, and what is made of it looked at."
    for free, batch in ((1 << 40, 4096), (1 << 27, None), (1, 1)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
        half = memory_for(torch.device("cuda"))
        assert half == free // 2 and max_batch_size(toy, half) == (batch or max_batch_size(toy, half))
    sizes = [max_batch_size(toy, m) for m in (1 << 20, 1 << 21, 1 << 22)]
    assert sizes[1] == 2 * sizes[0] and sizes[2] == 2 * sizes[1]  # twice the memory, twice the sequences
    assert memory_for(torch.device("cpu")) == 512 << 20 and toy.to("cpu").batch == 64


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "tpu", "", "cuda:x"])
def test_a_device_that_is_not_there_is_one_sentence(toy, device):
    if torch.cuda.is_available() and device == "cuda":
        pytest.skip("there is one")
    with pytest.raises(InputError, match=r"^device: found .*which cannot be used here"):
        toy.to(device)


def test_effects_are_the_same_bytes_for_any_number_of_workers(toy):
    x, sampler, engine = dna(120, 2), MaskSampler(toy, 5), make_engine(toy, [0, 1, 2])
    runs = [window_draws(engine, x, sampler, "w", 9, workers=n).effects.tobytes() for n in (1, 2, 4, 1)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    runs.append(window_draws(engine, x, sampler, "w", 9).effects.tobytes())
    torch.set_num_threads(threads)
    assert len(set(runs)) == 1


def test_an_effect_is_mutant_minus_reference_under_the_same_mask(toy):
    x, sampler = dna(120, 3), MaskSampler(toy, 1)
    draws = window_draws(make_engine(toy, [1, 2]), x, sampler, "w", 4)
    for d, m in [(0, 0), (1, 359), (3, 177), (2, 42)]:
        p, alt = draws.mutations.position[m], draws.mutations.alt[m]
        mutant = x.copy()
        mutant[:, p], mutant[alt, p] = 0, 1
        with shared_masks(toy.module, sampler("w", d)), torch.no_grad():
            f_mutant, f_ref = toy.module(torch.tensor(np.stack([mutant, x])))[:, [1, 2]]
        np.testing.assert_allclose(draws.effects[d, m], f_mutant - f_ref, atol=1e-6)


def test_every_window_alone_gives_what_it_gives_in_company(toy):
    x = np.stack([dna(120, s) for s in range(3)])
    together = mutation_effects(toy, x, "X_TF1_None", "X_DNase_None", 4, windows=["a", "b", "c"])
    alone = mutation_effects(toy, x[[1]], "X_TF1_None", "X_DNase_None", 4, windows=["b"])
    for v in ("bx", "bxse", "by", "byse", "bxby_cov"):
        assert together[v].sel(window=["b"]).values.tobytes() == alone[v].values.tobytes()


def test_bookkeeping_of_position_and_alt(toy):
    x = dna(120, 4)
    mutations = saturate(x)
    data = mutation_effects(toy, x[None], ["X_TF1_None", "X_TF2_None"], "X_DNase_None", 3, keep_draws=True, windows=["w"])
    draws = window_draws(make_engine(toy, [0, 1, 2]), x, MaskSampler(toy, 0), "w", 3)
    for m in (0, 100, 359):
        at = dict(window="w", position=mutations.position[m], alt="ACGT"[mutations.alt[m]])
        np.testing.assert_array_equal(data.draws_x.sel(exposure="X_TF2_None", **at), draws.effects[:, m, 1])
        np.testing.assert_array_equal(data.draws_y.sel(**at), draws.effects[:, m, 2])
        assert data.ref.sel(window="w", position=mutations.position[m]) == "ACGT"[mutations.ref[m]]
    assert int(np.isnan(data.bx).sum()) == 2 * 120


@given(st.integers(2, 6), st.integers(0, 99))
def test_summaries_agree_with_numpy(k, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, k, 5))
    s = summarise(x, y)
    for m in range(5):
        cov = np.cov(x[:, m], y[:, m]) / k
        np.testing.assert_allclose([s["bxse"][m] ** 2, s["bxby_cov"][m], s["byse"][m] ** 2], [cov[0, 0], cov[0, 1], cov[1, 1]])


def test_replica_shares_weights_and_nothing_else(toy):
    twin = replica(toy.module)
    assert all(a is b for a, b in zip(twin.parameters(), toy.module.parameters()))
    assert not set(map(id, twin.modules())) & set(map(id, toy.module.modules()))


def test_a_forward_that_was_replaced_is_asked_under_masks():
    net = nn.Module()
    net.conv, net.drop, net.last = nn.Conv1d(4, 8, 5), nn.Dropout(0.4), nn.Linear(8, 2)
    net.forward = lambda x: net.last(net.drop(net.conv(x).relu().mean(2)))
    model, x = SequenceModel(net, ["a", "b"], 40), random_windows(1, 40, 0)
    sampler = MaskSampler(model, 1)
    assert list(sampler.layers) == ["drop"] and replica(net) is net
    draws = window_draws(make_engine(model, [0, 1], "plain"), x[0].numpy(), sampler, "w", 3, 2)
    with torch.no_grad():
        want = net.last(net.conv(x).relu().mean(2) * sampler("w", 2)["drop"])[0]
    assert np.allclose(draws.reference[2], want, atol=1e-6)


class Tokens(nn.Module):
    "Bases as tokens that attend to each other from the first layer on, behind dropout."

    def __init__(self):
        super().__init__()
        self.embed, self.drop, self.hidden, self.last = nn.Embedding(4, 16), nn.Dropout(0.1), nn.Linear(16, 32), nn.Linear(32, 2)

    def forward(self, x):
        y = self.drop(self.embed(x.argmax(1)))
        return self.last(self.hidden(torch.softmax(y @ y.transpose(1, 2), -1) @ y).relu().mean(1))


def pooling(seed=0, length=300):
    torch.manual_seed(seed)
    net = ConvNet(2, channels=(32, 32, 48), length=length)
    for p in net.parameters():
        p.data *= 2
    return SequenceModel(net, ["a", "b"], length, f"pooling {seed}")


def asked(model, n_draws=None, seed=3, n=1, **options):
    return mutation_effects(model, np.stack([dna(model.length, seed + i) for i in range(n)]), "a", "b", n_draws, **options)


def test_the_fast_engine_is_chosen_where_it_has_less_work():
    "And without a word: both are right."
    tokens = SequenceModel(Tokens(), ["a", "b"], 100, "tokens")
    assert [asked(tokens, n).attrs["engine"] for n in (2, 9)] == ["plain", "plain"]
    assert [asked(pooling(), n).attrs["engine"] for n in (2, 9)] == ["propagate", "propagate"]
    late = Tokens()
    late.drop, late.hidden = nn.Identity(), nn.Sequential(nn.Linear(16, 32), nn.Dropout(0.1))
    with pytest.warns(UserWarning, match="computed in full from argmax on"):
        found = {n: type(make_engine(SequenceModel(late, ["a", "b"], 100), [0, 1], n_draws=n)).__name__ for n in (1, 50)}
    assert found == {1: "PlainEngine", 50: "Guarded"}  # what comes before its dropout is done once a window


@pytest.fixture
def engines_built(monkeypatch):
    "The names of the models for which an engine was built."
    names, build = [], Propagator.__init__

    def counted(self, model, *args, **options):
        names.append(model.name)
        build(self, model, *args, **options)

    monkeypatch.setattr(Propagator, "__init__", counted)
    return names


def test_an_engine_is_built_once_for_a_network_as_it_is(engines_built):
    model = pooling()
    first = [asked(model, 2) for _ in range(3)]
    assert len(engines_built) == 1 and first[0].identical(first[1]) and first[0].identical(first[2])
    model.module.head[1].weight.data[0] += 1  # in a way that torch does not count
    changed = asked(model, 2)
    assert len(engines_built) == 2
    np.testing.assert_allclose(changed.bx, asked(model, 2, engine="plain").bx, atol=1e-6)
    assert np.nanmax(np.abs(changed.bx - first[0].bx)) > 1e-4
    model.module.features[3].p = 0.0  # a dropout that is none any more
    np.testing.assert_allclose(asked(model, 2).bx, asked(model, 2, engine="plain").bx, atol=1e-6)
    assert len(engines_built) == 3
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):  # engines stay behind
        assert asked(other, 2).identical(asked(model, 2))
    assert len(engines_built) == 5


def test_an_ensemble_has_an_engine_a_member_and_one_warning(engines_built):
    members = Ensemble([pooling(i) for i in range(3)])
    for _ in range(2):
        assert asked(members).attrs["engine"] == "propagate"
    assert engines_built == ["pooling 0", "pooling 1", "pooling 2"]

    class Branching(nn.Module):
        def forward(self, x):
            return x.mean(2)[:, :2] if x.sum() > 0 else x[:, :2, 0]

    with pytest.warns(UserWarning, match=r"traced by torch.fx .* \(and 2 more members\); using the plain engine") as said:
        asked(Ensemble([SequenceModel(Branching(), ["a", "b"], 30) for _ in range(3)]))
    assert len(said) == 1


@pytest.mark.parametrize("workers", [1, 3])
def test_a_window_in_which_the_fast_engine_fails_is_plain_throughout(workers, monkeypatch):
    model, whole, calls = pooling(), Window.draw, []
    fast, plain = (asked(model, 4, n=2, keep_draws=True, engine=e) for e in ("propagate", "plain"))

    def draw(self, masks):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("an operation that fails now and then")
        return whole(self, masks)

    monkeypatch.setattr(Window, "draw", draw)
    with pytest.warns(UserWarning, match="an operation that fails now and then.*using the plain engine") as said:
        got = asked(model, 4, n=2, keep_draws=True, workers=workers)
    assert len(said) == 1
    np.testing.assert_array_equal(got.draws_x[0], plain.draws_x[0])
    np.testing.assert_array_equal(got.draws_x[1], fast.draws_x[1])  # the next window is tried again
    np.testing.assert_allclose(fast.draws_x, plain.draws_x, atol=1e-6)


def test_an_operation_that_fails_in_a_draw_is_named(monkeypatch):
    model = pooling()
    runner = make_engine(model, [0, 1])
    rule = propagate.evaluate
    monkeypatch.setattr("deepmr.propagate.evaluate", lambda ctx, node, *rest: 1 / 0 if node.target == "head.2" else rule(ctx, node, *rest))
    with pytest.warns(UserWarning, match=r"ZeroDivisionError: division by zero\), at head\.2; using the plain engine"):
        got = window_draws(runner, dna(300, 0), MaskSampler(model), "w", 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        want = window_draws(make_engine(model, [0, 1], "plain"), dna(300, 0), MaskSampler(model), "w", 2)
    np.testing.assert_array_equal(got.effects, want.effects)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["one network", "three members"])
@pytest.mark.parametrize("scale", ["log-odds", "probability", None])
def test_one_call_from_effects_gives_the_row_of_the_table(kind, scale, toy_files):
    "For every protocol, scale and kind of model; None: the scale that the command takes."
    model = toy_model() if kind == "one network" else Ensemble([toy_model(seed=s) for s in range(3)])
    for shipped in (True, False):
        draws = dict(draws=None) if shipped else dict(draws=6 if kind == "one network" else 3, protocol="masks")
        experiment = toy_experiment(model, toy_files, scale=scale, **draws)
        out, p = toy_files / f"run {shipped}", plan(experiment, QUIET)
        run(experiment, out, QUIET)
        asked = {} if shipped else dict(n_draws=draws["draws"], same_masks=True, keep_draws=True, seed=experiment.seed)
        tables = {name: table1(out, name).set_index("exposure") for name, p_ in PROTOCOLS.items() if p_.shipped == shipped}
        for exposure in tables["default" if shipped else "masks"].index:
            here = [exposure in e for e in p.windows.exposures]
            effects = mutation_effects(p.model, p.x[here], exposure, experiment.outcome, windows=list(p.windows.name[here]), scale=scale, **asked)
            for name, table in tables.items():
                got, same = causal_effect(effects, protocol=PROTOCOLS[name]), ["mean", "se", "ci_low", "ci_high", "p", "n_windows"]
                same += ["training_low", "training_high", "egger_share", "n_networks"] if shipped else ["prediction_low", "prediction_high"]
                want = table.loc[exposure, same].astype(float)
                np.testing.assert_allclose([getattr(got, k) for k in same], want, rtol=1e-4, atol=1e-6, err_msg=f"{name}, {exposure}")
        other = "masks" if shipped else "default"
        with pytest.raises(InputError, match=f"^protocol: found {other} for effects"):
            causal_effect(effects, protocol=PROTOCOLS[other])
