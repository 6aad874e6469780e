"Decoys: fitted, kept in a file, set beside any network; and the radial table. `07d_controls` tells why, and checks the small cases."

import json
import struct

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score
from torch import nn
from typer.testing import CliRunner

from conftest import toy_model
from deepmr.answer import causal_effect
from deepmr.cli import app
from deepmr.controls import attach_decoys, decoy_labels, fit_decoys, save_decoys
from deepmr.core import InputError
from deepmr.effects import mutation_effects
from deepmr.models import load_model
from deepmr.mr import ivw, mvmr
from deepmr.mutagenesis import random_windows
from deepmr.networks import Ensemble, SequenceModel
from deepmr.plots import radial_plot, radial_table
from deepmr.scale import logit_model

LABELS = ("X_TF1_None", "X_TF2_None", "X_DNase_None")


class Normed(nn.Module):
    "Not a Sequential: a convolution with batch normalization, a mean over positions, logits without a bias."

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv1d(4, 24, 9), nn.BatchNorm1d(24), nn.Linear(24, 3, bias=False)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).mean(-1))


def network(kind: str) -> SequenceModel:
    torch.manual_seed(5)
    match kind:
        case "sigmoid":
            return toy_model(3)
        case "logits":
            return SequenceModel(Normed(), LABELS, 120, kind, output="logit")
        case "double":
            return SequenceModel(Normed().double(), LABELS, 120, kind, output="logit")
        case "ensemble":
            return Ensemble([toy_model(3), toy_model(4), toy_model(5)], kind)
    raise AssertionError(kind)


@pytest.fixture(scope="module")
def windows():
    "Windows (600, 4, 120), which of them are open (rich in CG), and where two factors are bound."
    x = random_windows(600, 120, seed=2, gc=0.5).numpy()
    gc = x[:, 1:3].sum((1, 2))
    is_open, rng = gc > np.quantile(gc, 0.6), np.random.default_rng(0)
    return x, is_open, np.stack([is_open & (rng.random(600) < p) for p in (0.2, 0.5)], 1)


def codes(x):
    return x.argmax(1).astype(np.int8)


@pytest.mark.parametrize("kind", ["sigmoid", "logits", "double", "ensemble"])
def test_other_labels_keep_every_bit_and_decoys_follow_openness(kind, windows, tmp_path):
    "Any number of windows at a time, on windows that the decoys were not fitted on, too."
    x, model, rng = windows[0], network(kind), np.random.default_rng(0)
    level = np.quantile(model.predict(x)[:, 2], 0.6)  # openness is what the network's own label says: its features can tell
    is_open = model.predict(x)[:, 2] > level
    bound = np.stack([is_open & (rng.random(600) < p) for p in (0.2, 0.5)], 1)
    table = save_decoys(tmp_path / "d", model, codes(x), is_open, LABELS[:2], "X", bound, n=20)
    more = attach_decoys(model, tmp_path / "d")
    assert more.labels == (*LABELS, *(f"X_decoy{i:02d}_None" for i in range(1, 21))) and more.output == model.output
    for n in (1, 2, 3, 7, 64, 65):
        assert np.array_equal(more.predict(x[:n])[:, :3], model.predict(x[:n]))
    fresh = random_windows(400, 120, seed=9, gc=0.5).numpy()
    scores = [roc_auc_score(model.predict(fresh)[:, 2] > level, z) for z in more.predict(fresh)[:, 3:].T]
    assert np.median(scores) > 0.8 and table.auroc_open.median() > 0.8
    assert (table.windows - table.like_windows).abs().max() <= 10 and (table.gc - table.like_gc).abs().max() < 0.01
    assert np.array_equal(fit_decoys(model, x, decoy_labels(is_open, bound, np.isin(codes(x), (1, 2)).mean(1), 20), "X").predict(fresh),
                          more.predict(fresh))


def test_the_network_itself_is_left_alone(windows):
    "Its weights are shared, but moving or widening one does not touch the other."
    x, is_open, bound = windows
    model = network("logits")
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    more = fit_decoys(model, x, decoy_labels(is_open, bound, is_open, 20), "X")
    more.module.double()
    assert all(torch.equal(v, before[k]) and v.dtype == before[k].dtype for k, v in model.module.state_dict().items())
    assert model.predict(x[:2]).shape == (2, 3)


def test_same_seed_same_bytes_whatever_the_threads(windows, tmp_path):
    x, is_open, bound = windows
    threads, files = torch.get_num_threads(), []
    try:
        for n, seed in ((1, 0), (3, 0), (1, 1)):
            torch.set_num_threads(n)
            save_decoys(tmp_path / "d", toy_model(), codes(x), is_open, LABELS[:2], "X", bound, n=20, seed=seed)
            files.append((tmp_path / "d").read_bytes())
    finally:
        torch.set_num_threads(threads)
    assert files[0] == files[1] != files[2]


def test_without_observed_labels_the_thresholds_say_what_is_bound(windows, tmp_path):
    x, is_open, _ = windows
    model = toy_model()
    model.thresholds = {label: float(np.quantile(y, 0.8)) for label, y in zip(LABELS, model.predict(x).T)}
    table = save_decoys(tmp_path / "d", model, codes(x), is_open, LABELS[:2], "X", n=20)
    assert set(table.like) == set(LABELS[:2]) and set(table.like_windows) == {120}


def test_both_engines_carry_decoys(windows):
    x, is_open, bound = windows
    more = fit_decoys(toy_model(), x, decoy_labels(is_open, bound, is_open, 20), "X")
    for model in (more, logit_model(more)):
        one, two = (mutation_effects(model, x[:1], ["X_decoy01_None", "X_TF1_None"], "X_DNase_None", n_draws=3, engine=e)
                    for e in ("plain", "propagate"))
        assert two.attrs["engine"] == "propagate"
        for key in ("bx", "by"):
            np.testing.assert_allclose(one[key], two[key], rtol=1e-4, atol=1e-5)


def test_a_file_of_an_ensemble_serves_its_members_and_no_other_network(windows, tmp_path):
    x, is_open, bound = windows
    model = network("ensemble")
    save_decoys(tmp_path / "d", model, codes(x), is_open, LABELS[:2], "X", bound, n=20)
    some = attach_decoys(Ensemble([model.members[2], model.members[0]], "two"), tmp_path / "d")
    whole = attach_decoys(model, tmp_path / "d")
    assert np.array_equal(some.members[0].predict(x[:9]), whole.members[2].predict(x[:9]))
    with pytest.raises(InputError, match=r"decoys of another network \(ensemble\) than toy"):
        attach_decoys(toy_model(8), tmp_path / "d")
    with pytest.raises(InputError, match="found the label X_decoy01_None, expected a network without decoys"):
        attach_decoys(whole, tmp_path / "d")


class Odd(nn.Module):
    "Networks that end in something else than one linear layer."

    def __init__(self, kind):
        super().__init__()
        self.kind, self.linear, self.conv = kind, nn.Linear(480, 3), nn.Conv1d(4, 3, 120)
        self.twice = nn.Linear(3, 3)

    def forward(self, x):
        match self.kind:
            case "convolution":
                return torch.sigmoid(self.conv(x)[:, :, 0])
            case "both strands":
                return torch.sigmoid(self.linear(x.flatten(1)) + self.linear(x.flip(1, 2).flatten(1)))
            case "a layer used twice":
                return torch.sigmoid(self.twice(self.twice(self.linear(x.flatten(1)))))
        return torch.softmax(self.linear(x.flatten(1)), 1)


@pytest.mark.parametrize("kind", ["convolution", "both strands", "a layer used twice", "softmax"])
def test_a_network_without_a_last_linear_layer_is_refused(kind, windows):
    x, _, bound = windows
    with pytest.raises(InputError, match=f"model {kind}: found no linear layer that makes the output.*use --controls shuffled$"):
        fit_decoys(SequenceModel(Odd(kind), LABELS, 120, kind), x, bound, "X")


@pytest.mark.parametrize("output", ["value", "count", "log count"])
def test_other_outputs_than_probabilities_and_logits_are_refused(output, windows):
    "A slope per unit of a logit cannot be compared with one per unit of a count."
    x, _, bound = windows
    net = nn.Sequential(Normed(), nn.Softplus()) if output == "count" else Normed()  # counts are not negative
    with pytest.raises(InputError, match=f"model n: found an output that is a {output}, expected probabilities or logits"):
        fit_decoys(SequenceModel(net, LABELS, 120, "n", output=output), x, bound, "X")


@pytest.mark.parametrize("change, says", [
    (dict(n=12), "n: found 12, expected a whole number of at least 20"),
    (dict(seed=-1), "seed: found -1"),
    (dict(open_=np.zeros(600)), "open: found 0 open windows among 600, expected at least 20"),
    (dict(open_=np.arange(600) < 19), "open: found 19 open windows among 600"),
    (dict(open_=np.ones(600)), "regions: found 0 closed windows among 600"),
    (dict(open_=np.ones(9)), r"open: found shape \(9,\)"),
    (dict(bound=np.zeros((600, 2))), "regions: found at most 0 windows bound by a label of X, expected at least 20")])
def test_what_decoys_cannot_be_fitted_from_is_refused(change, says, windows, tmp_path):
    x, is_open, bound = windows
    given = dict(open_=is_open, exposures=LABELS[:2], cell="X", bound=bound, n=20) | change
    with pytest.raises(InputError, match=says):
        save_decoys(tmp_path / "d", toy_model(), codes(x), **given)
    assert not (tmp_path / "d").exists()


def test_a_damaged_file_is_none(windows, tmp_path):
    x, is_open, bound = windows
    good, bad = tmp_path / "good", tmp_path / "bad"
    save_decoys(good, toy_model(), codes(x), is_open, LABELS[:2], "X", bound, n=20)
    raw, tensors = good.read_bytes(), load_file(str(good))
    size = struct.unpack("<Q", raw[:8])[0]
    entry = json.loads(json.loads(raw[8:8 + size])["__metadata__"]["decoys"])
    spoilt = {"bytes are missing": lambda: bad.write_bytes(raw[:-4]), "text": lambda: bad.write_text("decoys\n"),
              "weights of a network": lambda: save_file({"w": torch.zeros(2)}, str(bad)),
              "a number is NaN": lambda: save_file(tensors | {"0.bias": torch.full((20,), torch.nan)}, str(bad), {"decoys": json.dumps(entry)}),
              "a label is missing": lambda: save_file(tensors, str(bad), {"decoys": json.dumps(entry | {"labels": entry["labels"][1:]})}),
              "a tensor is missing": lambda: save_file({"0.bias": tensors["0.bias"]}, str(bad), {"decoys": json.dumps(entry)}),
              "no JSON": lambda: save_file(tensors, str(bad), {"decoys": "{"}), "a list": lambda: save_file(tensors, str(bad), {"decoys": "[1]"})}
    for what, make in spoilt.items():
        make()
        with pytest.raises(InputError) as said:
            attach_decoys(toy_model(), bad)
        assert str(said.value).startswith(f"decoys: {bad} does not hold decoys"), what
    with pytest.raises(InputError, match="decoys: found no file"):
        attach_decoys(toy_model(), tmp_path / "none")


def command(*arguments):
    done = CliRunner().invoke(app, ["decoys", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def asked(named, tmp_path):
    "Good files and the options of `deepmr decoys` on them."
    (tmp_path / "open.bed").write_text("".join(f"chr1\t{s}\t{s + 300}\n" for s in range(0, 2800, 600)))
    (tmp_path / "tiles.bed").write_text("".join(f"chr1\t{s}\t{s + 120}\tw\t0\t+\t{'X_TF1_None' if s % 60 else '.'}\n" for s in range(0, 2880, 20)))
    return dict(model=named.model, outcome="X_DNase_None", regions=tmp_path / "tiles.bed", open=tmp_path / "open.bed", genome=tmp_path / "g.fa",
                out=tmp_path / "made")


def run(asked, **change):
    return command(*(t for k, v in (asked | change).items() if v is not None for t in (f"--{k}", v)))


def test_the_command_writes_a_file_that_fits_its_model(asked):
    code, shown, said = run(asked)
    assert (code, said) == (0, "note: Column 7 of the regions was read as labels, since it names labels of the model. A header '#chrom start end "
                               "name score strand labels' would say so (tiles.bed).\n")
    assert "24 decoys fitted in 144 windows, like the labels observed there" in shown
    more = attach_decoys(load_model(asked["model"]), asked["out"])
    assert more.labels[3] == "X_decoy01_None" and len(more.labels) == 27
    once = asked["out"].read_bytes()
    assert run(asked, outcome="2")[0] == 0 and asked["out"].read_bytes() == once  # the same label by its number
    code, shown, said = run(asked, model=f"{asked['model']},{asked['model']}")
    assert code == 0 and len(attach_decoys(load_model([asked["model"]] * 2), asked["out"]).labels) == 27


@pytest.mark.parametrize("change, says", [
    (dict(open=None), "deepmr: Missing option '--open'."), (dict(genome=None), "deepmr: genome: found none, expected --genome FASTA"),
    (dict(open="none.bed"), "deepmr: regions: found no file none.bed"), (dict(n=5), "deepmr: n: found 5, expected a whole number of at least 20"),
    (dict(outcome="X_DNaze_None"), "did you mean X_DNase_None"), (dict(seed=-1), "deepmr: seed: found -1")])
def test_the_command_says_what_is_wrong_in_one_line(asked, change, says, monkeypatch):
    code, shown, said = run(asked, **change)
    assert (code, shown, len(said.splitlines())) == (2, "", 1) and says in said and not asked["out"].exists()


def test_openness_on_other_chromosomes_is_none(asked, tmp_path):
    (tmp_path / "open.bed").write_text("1\t0\t2000\n")
    code, _, said = run(asked)
    assert code == 2 and "open: found 0 open windows among 144" in said and "named alike" in said


# --- the radial table -----------------------------------------------------------------------------------------------------


def dataset(bx, by, byse):
    position = np.arange(len(bx))
    grid = lambda v: (("position", "alt"), np.stack([v, np.full(len(v), np.nan)], 1))
    return xr.Dataset({"bx": grid(bx), "bxse": grid(byse), "by": grid(by), "byse": grid(byse), "ref": ("position", np.full(len(bx), "A"))},
                      {"position": position, "alt": ["C", "A"]})


def test_radial_table_is_ivw_and_finds_what_was_planted():
    rng = np.random.default_rng(0)
    bx, byse = rng.normal(0, 1, 300), rng.uniform(0.05, 0.2, 300)
    by = 0.7 * bx + rng.normal(0, byse)
    by[[17, 200]] += [1.5, -1.5]
    table, known = radial_table(dataset(bx, by, byse)), ivw(bx, byse, by, byse, model="fixed")
    np.testing.assert_allclose([table.attrs["slope"], table.q.sum()], [known.estimate, known.diagnostics["q"]], rtol=1e-12)
    assert table.position[table.outlier].tolist() == [17, 200] and set(table.alt) == {"C"} and set(table.ref) == {"A"}
    np.testing.assert_allclose(table.y, (by / bx) * table.x, rtol=1e-12)
    names = [t.get_text() for t in radial_plot(dataset(bx, by, byse)).texts]
    assert sorted(names) == ["17A>C", "200A>C"]


@pytest.mark.parametrize("lacking", ["no variable", "zeros", "NaN"])
def test_without_standard_errors_the_residual_sd_stands_in(lacking):
    rng = np.random.default_rng(1)
    bx = rng.normal(0, 1, 300)
    by = -0.4 * bx + rng.normal(0, 0.1, 300)
    by[5], bx[7:9], by[7:9] = 2.0, 0, 0  # two mutations that do nothing
    data = dataset(bx, by, np.full(300, {"zeros": 0.0}.get(lacking, np.nan)))
    data = data.drop_vars(["bxse", "byse"]) if lacking == "no variable" else data
    table = radial_table(data)
    slope = bx @ by / (bx @ bx)
    sd = np.sqrt(((by - slope * bx) ** 2).sum() / 297)
    moved = np.r_[0:7, 9:300]
    assert table.attrs["errors"] == "residual SD" and len(table) == 298
    np.testing.assert_allclose(table.q, ((by - slope * bx) / sd)[moved] ** 2, rtol=1e-10)
    assert table.position[table.outlier].tolist() == [5]
    ax = radial_plot(data)
    assert "residual SD" in ax.get_xlabel() and "Q =" not in ax.get_legend().get_texts()[1].get_text()


def test_radial_table_refuses_what_gives_no_line():
    with pytest.raises(InputError, match="found 2 mutations with an effect on the exposure"):
        radial_table(dataset(np.array([1.0, 2.0, 0.0]), np.ones(3), np.ones(3)))


WORD = "TGACTCAG"


class Sites(nn.Module):
    "A reads the word and opens. B reads it too, and does nothing. C follows openness. Decoys are openness and a filter of their own."

    def __init__(self, decoys: int = 12):
        super().__init__()
        self.word, self.rest = nn.Conv1d(4, 1, 8, bias=False), nn.Conv1d(4, 3 + decoys, 6, bias=False)
        with torch.no_grad():
            self.word.weight.copy_(torch.tensor([[[float(here == base) for here in WORD] for base in "ACGT"]]))
            self.rest.weight.copy_(torch.randn(self.rest.weight.shape, generator=torch.Generator().manual_seed(0)))

    def forward(self, x):
        word, rest = torch.relu(self.word(x) - 4).amax(-1)[:, 0], self.rest(x).tanh().mean(-1)
        a, b = word + 0.5 * rest[:, 0], word + 0.5 * rest[:, 1]
        opened = 0.5 * a + rest[:, 2]
        labels = torch.stack([a, b, opened + 0.2 * rest[:, 1]], 1)
        return torch.sigmoid(torch.cat([labels, opened[:, None] + 0.3 * rest[:, 3:], opened[:, None]], 1))


@pytest.fixture(scope="module")
def at_sites():
    names = ("X_A_None", "X_B_None", "X_C_None", *(f"X_decoy{i + 1:02}_None" for i in range(12)), "X_DNase_None")
    windows, motif = random_windows(20, 200, seed=1).numpy(), np.full((4, 8), 0.02)
    motif[["ACGT".index(base) for base in WORD], range(8)] = 0.94
    windows[:, :, 90:98] = motif > 0.5
    effects = mutation_effects(SequenceModel(Sites(), names, 200, "sites"), windows, list(names[:-1]), names[-1])
    return effects, dict.fromkeys(names[:3], motif)


@pytest.mark.long
def test_of_two_that_read_a_site_the_one_that_opens_stands(at_sites):
    effects, motifs = at_sites
    a, b, c = (causal_effect(effects, name, motif, rivals=motifs) for name, motif in motifs.items())
    assert min(a.own_low, b.own_low, c.own_low) > 0  # by their own sites alone all three open
    assert a.own_decoy_p < 0.001 and b.own_decoy_p < 0.001 and c.own_decoy_p > 0.05  # C is one more decoy there
    assert (a.own_rival, a.own_stands) == ("X_B_None", True)  # C, which stands for openness, is not held still: nothing would be left
    assert (b.own_rival, b.own_stands) == ("X_A_None", False)
    assert a.own_rival_ratio < 1 < b.own_rival_ratio


def test_the_direct_effect_at_own_sites_is_that_of_multivariable_mr(at_sites):
    effects, motifs = at_sites
    inside = np.zeros(200, bool)
    inside[90:98] = True
    here = effects.isel(position=inside)
    bx = np.stack([here.bx.sel(exposure=name).values.ravel() for name in ("X_A_None", "X_B_None")], 1)
    by, moved = here.by.values.ravel(), np.isfinite(here.by.values.ravel())
    ones = np.ones(moved.sum())
    both = mvmr(bx[moved], np.ones((moved.sum(), 2)), by[moved], ones, names=["A", "B"])
    row = causal_effect(effects, "X_A_None", motifs["X_A_None"], rivals=motifs)
    np.testing.assert_allclose(row.own_direct, both["A"].estimate, rtol=1e-4)


def test_without_rivals_or_decoys_the_row_says_nothing_of_them(at_sites):
    effects, motifs = at_sites
    alone = causal_effect(effects, "X_B_None", motifs["X_B_None"])
    assert (alone.own_rival, alone.own_stands, np.isnan(alone.own_direct)) == ("", True, True)
    bare = causal_effect(effects.sel(exposure=list(motifs)), "X_B_None", motifs["X_B_None"], rivals=motifs)
    assert np.isnan(bare.own_decoy_p) and not bare.own_stands
