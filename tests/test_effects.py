"""Masks and effects: rule 2 (same seed, same bytes, whatever the batch, threads and order) and exactness."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import deepmr.mutagenesis
from conftest import toy_model
from deepmr.dropout import MaskSampler, shared_masks
from deepmr.effects import make_engine, mutation_effects, replica, summarise, window_draws
from deepmr.models import SequenceModel
from deepmr.mutagenesis import saturate
from deepmr.regions import InputError, one_hot


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
def test_effects_do_not_depend_on_the_batch(toy, batch, monkeypatch):
    x, model = dna(120, 1), toy_model()
    model.module.double()
    reference = window_draws(make_engine(model, [0, 2], "naive"), x, MaskSampler(model), "w", 3)
    monkeypatch.setattr(deepmr.mutagenesis, "BATCH", batch)
    other = window_draws(make_engine(model, [0, 2], "naive"), x, MaskSampler(model), "w", 3)
    np.testing.assert_allclose(other.effects, reference.effects, atol=1e-14)


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


def test_repeated_dropout_module_is_refused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.out = nn.Dropout(0.5), nn.Linear(40, 1)

        def forward(self, x):
            return self.out(self.drop(self.drop(x).flatten(1)))

    with pytest.raises(InputError, match="drop is used twice"):
        MaskSampler(SequenceModel(Twice(), ["a"], 10))
