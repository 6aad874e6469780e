"""Training: learning, determinism, resumption, masking, data loading, and the shipped weights on real windows."""
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from typer.testing import CliRunner

from deepmr import training as T
from deepmr.cli import app
from deepmr.core import InputError
from deepmr.models import ConvNet, load_model
from deepmr.regions import Genome, is_bound, one_hot, read_regions, tile

ROOT = Path(__file__).resolve().parents[1]
HG19 = ROOT.parent / "shared" / "hg19"
DATA = ROOT / "deepmr" / "data"
SMALL = dict(channels=[16, 16], kernels=[8, 3], pools=[4, 2], conv_dropout=[0.1, 0.1], hidden=16, hidden_dropout=0.2,
             length=120)
RECIPE = dict(epochs=10, cycle=10, cooldown=5, batch_size=32, rate=0.005, jitter=0, decay=0.9, motifs={},
              architecture=SMALL, name="toy", threads=1)


def same(a, b) -> bool:
    first, second = a.module.state_dict(), b.module.state_dict()
    return all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture(scope="module")
def toy():
    return T.planted()


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory):
    return T.train(toy, tmp_path_factory.mktemp("run"), **RECIPE)


def test_planted_motif_is_learnt_and_chance_is_not(toy, trained):
    rows = toy.rows("test")
    area = T.label_auroc(toy, rows, T.predict_logits(trained.module, toy, rows))
    assert area[0] > 0.9
    assert abs(area[1] - 0.5) < 0.2


def test_same_seed_same_bytes_and_another_seed_another_model(toy, trained, tmp_path):
    again = T.train(toy, tmp_path / "again", **RECIPE)
    assert same(trained, again)
    other = T.train(toy, tmp_path / "other", seed=1, **RECIPE)
    assert not same(trained, other)


def test_killed_and_continued_ends_with_the_same_bytes(toy, trained, tmp_path):
    T.train(toy, tmp_path, **RECIPE, stop_after=1)
    T.train(toy, tmp_path, **RECIPE, stop_after=4)
    assert same(trained, T.train(toy, tmp_path, **RECIPE))
    assert len(pd.read_csv(tmp_path / "toy_log.csv")) == RECIPE["epochs"]


def test_written_weights_are_the_returned_ones(toy, tmp_path):
    model = T.train(toy, tmp_path, **RECIPE)
    assert same(model, load_model(str(tmp_path / "toy.safetensors")))


def test_unknown_labels_have_exactly_zero_gradient():
    torch.manual_seed(0)
    net = ConvNet(n_labels=3, **SMALL)
    x = torch.from_numpy(one_hot(["".join(r) for r in np.random.default_rng(0).choice(list("ACGT"), (4, 120))]))
    known = torch.ones(4, 3)
    known[:, 1] = 0
    T.masked_loss(net.logits(x), torch.ones(4, 3), known, torch.full((3,), 1 / 3)).backward()
    last = net.head[-2]
    assert (last.weight.grad[1] == 0).all() and last.bias.grad[1] == 0
    assert (last.bias.grad[[0, 2]] != 0).all()


def test_what_unknown_labels_say_changes_nothing(toy, tmp_path):
    known = toy.known.copy()
    known[toy.windows.chrom == "chr1", 0] = False
    masked = T.Data(**{**vars(toy), "known": known, "y": toy.y & known})
    lying = T.Data(**{**vars(toy), "known": known, "y": toy.y & known})
    y, k = (torch.from_numpy(a).float() for a in (lying.y, known))
    logits, weight = torch.randn(y.shape), T.label_weights(masked, 0.5)
    assert T.masked_loss(logits, y, k, weight) == T.masked_loss(logits, torch.where(k > 0, y, 1 - y), k, weight)


def test_pooling_before_relu_is_the_network():
    torch.manual_seed(1)
    net = ConvNet(n_labels=5, **T.ARCHITECTURE).eval()
    x = torch.randn(2, 4, 1000)
    assert torch.equal(T.fast_logits(net, x), net.logits(x))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 300), st.booleans())
def test_auroc_and_average_precision_agree_with_scikit_learn(seed, n, ties):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    score = rng.normal(size=n).round(1 if ties else 12)
    y = rng.random(n) < 0.4
    y[:2] = True, False
    weight = rng.integers(0, 3, (3, n)).astype(float)
    weight[:, :2] += 1
    for got, want in ((T.auroc, metrics.roc_auc_score), (T.average_precision, metrics.average_precision_score)):
        np.testing.assert_allclose(got(score, y, weight), [want(y, score, sample_weight=w) for w in weight], atol=1e-9)


def test_bootstrap_blocks_stay_together():
    windows = pd.DataFrame({"chrom": ["chr1"] * 4 + ["chr2"], "start": [0, 200, 99_999, 100_000, 0]})
    w = T.block_weights(windows, 50)
    assert w.shape == (50, 5)
    assert (w[:, 0] == w[:, 1]).all() and (w[:, 0] == w[:, 2]).all()
    assert (w[:, 0] != w[:, 3]).any() and (w[:, 0] + w[:, 3] + w[:, 4] == 3).all()


def test_batches_stay_within_their_segment_and_complement():
    data = T.planted(n=20)
    base = T.batch(data, np.arange(20))
    assert torch.equal(T.batch(data, np.arange(20), shift=np.full(20, 50)), base)  # no room to move
    assert torch.equal(T.batch(data, np.arange(20), flip=True).flip(1, 2), base)
    assert (base.sum(1) == 1).all()


def test_intercepts_make_the_mean_right(toy, trained):
    rows = toy.rows("validation")
    p = torch.sigmoid(torch.from_numpy(T.predict_logits(trained.module, toy, rows))).numpy()
    assert abs(p[:, 0].mean() - toy.y[rows, 0].mean()) < 0.05


def write_directory(folder: Path, size: int = 3000) -> None:
    rng = np.random.default_rng(3)
    fasta = ""
    for chrom, start in (("chr1", 1000), ("chr2", 0), ("chr16", 0), ("chr8", 500)):
        bases = rng.choice(list("ACGT"), size)
        if chrom == "chr2":
            bases[2500] = "N"
        fasta += f">{chrom}:{start}-{start + size}\n{''.join(bases)}\n"
    (folder / "segments.fa").write_text(fasta)
    (folder / "a.narrowPeak").write_text("chr1\t1400\t1500\n" + "chr2\t400\t600\nchr8\t900\t1300\n")
    (folder / "empty.narrowPeak").write_text("")
    pd.DataFrame([
        dict(cell="K562", target="MAX", track="HaibMax", file="a.narrowPeak", unlabelled_chromosomes=None, deepsea_label=None),
        dict(cell="K562", target="MAX", track="SydhMax", file="a.narrowPeak", unlabelled_chromosomes=None, deepsea_label=None),
        dict(cell="K562", target="ZNF274", track="Znf", file="empty.narrowPeak", unlabelled_chromosomes=None, deepsea_label=None),
        dict(cell="HepG2", target="REST", track="REST", file="a.narrowPeak", unlabelled_chromosomes="chr1,chr8",
             deepsea_label="HepG2_NRSF_None"),
    ]).to_csv(folder / "tracks.tsv", sep="\t", index=False)


def test_data_from_a_directory(tmp_path):
    write_directory(tmp_path)
    data = T.load_data(tmp_path, min_positives=1)
    assert data.labels == ("HepG2_NRSF_None", "K562_MAX_None|HaibMax", "K562_MAX_None|SydhMax")  # the empty track is gone
    assert data.focus.tolist() == [True, False, False]
    chrom, start = data.windows.chrom, data.windows.start
    assert not ((chrom == "chr2") & (start + 1000 > 2500)).any()  # windows with the N
    at = data.y[:, 1]
    assert set(zip(chrom[at], start[at])) == {("chr1", 1000), ("chr2", 0), ("chr8", 500), ("chr8", 700)}
    assert not data.y[chrom.isin(["chr1", "chr8"]), 0].any() and not data.known[chrom.isin(["chr1", "chr8"]), 0].any()
    genome = Genome(tmp_path / "segments.fa")
    rows = np.arange(len(start))
    want = one_hot([genome.fetch(w.chrom, w.start, w.end) for w in data.windows.itertuples()])
    np.testing.assert_array_equal(T.batch(data, rows).numpy(), want)


def test_a_directory_without_data_says_so(tmp_path):
    with pytest.raises(InputError, match=r"found no file .*tracks\.tsv"):
        T.load_data(tmp_path)
    write_directory(tmp_path)
    with pytest.raises(InputError, match="no track of 'A549'"):
        T.load_data(tmp_path, cell="A549")
    with pytest.raises(InputError, match="fewer labelled training windows than the 64"):
        T.train(tmp_path, tmp_path / "out", motifs={})
    stopped = CliRunner().invoke(app, ["train", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")])
    assert stopped.exit_code == 2 and "tracks.tsv, expected a table of the tracks" in stopped.output


def test_the_command_trains_members_that_can_be_asked_together(tmp_path):
    pytest.importorskip("pyjaspar")
    write_directory(tmp_path, 40_000)
    peaks = "".join(f"{c}\t{s}\t{s + 200}\n" for c in ("chr1", "chr2", "chr16", "chr8") for s in range(2000, 39_000, 1000))
    (tmp_path / "a.narrowPeak").write_text(peaks)
    command = ["train", "--data", str(tmp_path), "--cell", "K562", "--members", "2", "--epochs", "1", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    spec = ",".join(str(tmp_path / "out" / f"member{k}" / f"k562-{k}.safetensors") for k in (0, 1))
    assert f"--model {spec}" in done.output
    both = load_model(spec)
    assert both.labels[0].startswith("K562") and len(both.members) == 2 and both.length == 1000
    assert not same(*both.members)
    again = CliRunner().invoke(app, command)  # a finished run is read, not repeated
    assert again.exit_code == 0 and "epoch" not in again.output


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9))
def test_motif_hits_are_those_of_a_scan_letter_by_letter(seed, width):
    rng, data = np.random.default_rng(seed), T.planted(n=6, length=40)
    counts = rng.integers(0, 30, (4, width)) + 1.0
    odds, rows = T.log_odds(counts), np.arange(6)
    x = T.batch(data, rows).numpy()
    want = [max((o * w[:, i:i + width]).sum() for o in (odds, odds[::-1, ::-1]) for i in range(40 - width + 1)) for w in x]
    np.testing.assert_allclose(T.motif_hits(data, rows, [counts])[:, 0], want, rtol=1e-5, atol=1e-5)


def test_jaspar_keeps_all_versions_of_a_motif():
    pytest.importorskip("pyjaspar")
    found = T.jaspar(["MAFK", "CTCF"])
    assert found["MAFK"]["MA0496.1"].shape == (4, 15) and found["MAFK"]["MA0496.4"].shape == (4, 10)
    assert {v.split(".")[0] for v in found["CTCF"]} >= {"MA0139"} and len(T.jaspar(None)) > 700


def test_a_map_made_by_a_motif_is_matched_to_it_and_its_family():
    pytest.importorskip("pyjaspar")
    motifs, family = T.jaspar(), T.families()
    x = one_hot(["".join(r) for r in np.random.default_rng(1).choice(list("ACGT"), (3, 200))])
    change = T.occupancy_change(x, motifs["FOXA1"]["MA0148.3"])
    bx = np.where(x.transpose(0, 2, 1) == 1, np.nan, np.tanh(change) + 0.1 * np.random.default_rng(0).normal(size=change.shape))
    row = T.motif_row("HepG2_FOXA1_None", "FOXA1", T.match_all(bx, x, motifs), family)
    assert row["best"] == "FOXA1" and row["own_rank"] == 1 and row["found"] and row["match"] > 0.7
    none = T.motif_row("HepG2_p300_None", "EP300", T.match_all(bx, x, motifs), family)
    assert none["own"] is None and not none["found"] and np.isnan(none["own_rank"])


def test_motif_filters_score_their_consensus_highest():
    rng = np.random.default_rng(0)
    for width in (5, 16, 20):
        counts = rng.integers(0, 50, (4, width)).astype(float)
        w = T.motif_filter(counts, 16)
        assert w.shape == (4, 16)
        assert abs(w.max(0).sum() - 2.0) < 1e-9


def test_the_shipped_card_and_metrics_agree():
    metrics = pd.read_csv(DATA / "hepg2_metrics.csv")
    model = load_model("hepg2")
    assert list(metrics.label) == list(model.labels[:20])
    assert len(set(model.labels)) == len(model.labels)
    assert (DATA / "hepg2.safetensors").stat().st_size <= 8e6
    card = (DATA / "hepg2_model_card.md").read_text()
    for r in metrics.itertuples():
        assert f"| {r.label} | {r.positives} | {r.auroc:.3f} ({r.auroc_low:.3f}–{r.auroc_high:.3f})" in card
    assert [T.verdict(r) for r in metrics.to_dict("records")] == list(metrics.verdict)
    dnase = metrics.set_index("label").loc["HepG2_DNase_None"]
    factors = metrics[metrics.label != "HepG2_DNase_None"]
    assert dnase.auroc >= 0.92
    assert factors.auroc.median() > factors.kmer_auroc.median() + 0.03


def test_the_shipped_weights_reproduce_the_stored_metrics():
    if not HG19.is_dir():
        pytest.skip("needs ../shared/hg19")
    model = load_model("hepg2")
    metrics = pd.read_csv(DATA / "hepg2_metrics.csv").set_index("label")
    genome = Genome(HG19 / "hg19_segments.fa.gz")
    windows = tile(genome.segments[genome.segments.chrom == "chr22"]).drop_duplicates(["chrom", "start"])
    sequences = np.array([genome.fetch(w.chrom, w.start, w.end) for w in windows.itertuples()])
    windows = windows[["N" not in s for s in sequences]].reset_index(drop=True)
    sequences = sequences[["N" not in s for s in sequences]][::10]
    p = model.predict(one_hot(list(sequences)))
    tracks = pd.read_csv(HG19 / "tracks.tsv", sep="\t").set_index("target")
    tracks = tracks[tracks.cell == "HepG2"]
    for target, label in (("DNase", "HepG2_DNase_None"), ("CTCF", "HepG2_CTCF_None"), ("MAX", "HepG2_Max_None")):
        y = is_bound(windows, read_regions(HG19 / tracks.file[target]))[::10]
        got = T.auroc(p[:, model.index(label)], y)[0]
        assert got == pytest.approx(metrics.quick_auroc[label], abs=2e-3)
