"""Training: learning, determinism, resumption, masking, data loading, and the shipped weights on real windows."""
import gzip
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors import safe_open
from typer.testing import CliRunner

from deepmr.cli import app
from deepmr.core import Execution, InputError
from deepmr.evaluation import label_warnings, motif_baseline, planting_table
from deepmr.models import load_model
from deepmr.networks import ConvNet
from deepmr.regions import Genome, is_bound, one_hot, read_regions, tile
from deepmr.training import Recipe, auroc, average_precision, jaspar, label_auroc, predict_logits, train
from deepmr.training_data import ALL_SOURCES, DataOptions, held_out_windows, load_data, toy_data

ROOT = Path(__file__).resolve().parents[1]
HG19 = ROOT.parent / "shared" / "hg19"
DATA = ROOT / "deepmr" / "data"
FAR = 10**9  # bp: no summit on the chromosome
SMALL = dict(channels=[16, 16], kernels=[8, 3], pools=[4, 2], conv_dropout=[0.1, 0.1], hidden=16, hidden_dropout=0.2,
             length=120)
RECIPE = Recipe(epochs=10, batch_size=32, rate=0.01, negatives=1.0, jitter=0, decay=0.9, block=0, motifs={}, architecture=SMALL)


def same(a, b) -> bool:
    first, second = a.module.state_dict(), b.module.state_dict()
    return all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture(scope="module")
def toy():
    return toy_data()


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory):
    return train(toy, tmp_path_factory.mktemp("run"), RECIPE, name="toy")


def test_planted_motif_is_learnt_and_chance_is_not(toy, trained):
    rows = toy.rows("test")
    area = label_auroc(toy, rows, predict_logits(trained.module, toy, rows))
    assert area[0] > 0.9
    assert abs(area[1] - 0.5) < 0.2


def test_same_seed_same_bytes_and_another_seed_another_model(toy, trained, tmp_path):
    again = train(toy, tmp_path / "again", RECIPE)
    assert same(trained, again)
    other = train(toy, tmp_path / "other", RECIPE, seed=1)
    assert not same(trained, other)


def test_killed_and_continued_ends_with_the_same_bytes(toy, trained, tmp_path):
    train(toy, tmp_path, RECIPE, name="toy", stop_after=1)
    train(toy, tmp_path, RECIPE, name="toy", stop_after=4)
    assert same(trained, train(toy, tmp_path, RECIPE, name="toy"))
    assert len(pd.read_csv(tmp_path / "toy_log.csv")) == RECIPE.epochs


def test_progress_counts_every_step_and_a_finished_run_is_not_repeated(toy, tmp_path):
    seen, told = [], []
    execution = Execution(announce=told.append, progress=lambda *step: seen.append(step))
    short = replace(RECIPE, epochs=2)
    first = train(toy, tmp_path, short, name="toy", execution=execution)
    assert [done for done, _, _ in seen] == list(range(1, len(seen) + 1))
    assert {(total, what) for _, total, what in seen} == {(len(seen), "toy")} and len(told) == 2
    assert same(first, train(toy, tmp_path, short, name="toy", execution=execution)) and len(told) == 2


def test_a_checkpoint_that_is_none_is_refused(toy, tmp_path):
    for content in (b"not a checkpoint", pickle.dumps(Path("x"))):
        (tmp_path / "checkpoint.pt").write_bytes(content)
        with pytest.raises(InputError, match=r"^checkpoint: .*holds more than numbers and names"):
            train(toy, tmp_path, RECIPE)


def test_written_weights_are_the_returned_ones(toy, tmp_path):
    model = train(toy, tmp_path, RECIPE, name="toy")
    assert same(model, load_model(str(tmp_path / "toy.safetensors")))


def test_a_label_that_is_known_nowhere_keeps_the_weights_it_began_with(toy, tmp_path):
    known = toy.known.copy()
    known[:, 1] = False
    torch.manual_seed(0)
    began = ConvNet(n_labels=2, **SMALL).head[-2].weight
    ended = train(replace(toy, known=known), tmp_path, replace(RECIPE, epochs=2, weight_decay=0.0)).module.head[-2].weight
    assert torch.equal(ended[1], began[1]) and (ended[0] != began[0]).any()


def test_what_unknown_labels_say_changes_nothing(toy, tmp_path):
    known = toy.known.copy()
    known[toy.windows.chrom == "chr1", 0] = False
    honest, lying = (train(replace(toy, known=known, y=y), tmp_path / name, replace(RECIPE, epochs=2))
                     for name, y in (("honest", toy.y), ("lying", np.where(known, toy.y, ~toy.y))))
    assert same(honest, lying) and honest.thresholds == lying.thresholds


def test_pooling_before_relu_is_the_network():
    torch.manual_seed(1)
    data = toy_data(n=2, length=1000)
    net = ConvNet(n_labels=5, **Recipe().architecture).eval()
    np.testing.assert_array_equal(predict_logits(net, data, np.arange(2)), net.logits(data.batch(np.arange(2))).detach())


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
    for got, want in ((auroc, metrics.roc_auc_score), (average_precision, metrics.average_precision_score)):
        np.testing.assert_allclose(got(score, y, weight), [want(y, score, sample_weight=w) for w in weight], atol=1e-9)


def test_batches_stay_within_their_segment_and_complement():
    data = toy_data(n=20)
    base = data.batch(np.arange(20))
    assert torch.equal(data.batch(np.arange(20), shift=np.full(20, 50)), base)  # no room to move
    assert torch.equal(data.batch(np.arange(20), flip=True).flip(1, 2), base)
    assert (base.sum(1) == 1).all()


def test_intercepts_make_the_mean_right(toy, trained):
    rows = toy.rows("validation")
    p = torch.sigmoid(torch.from_numpy(predict_logits(trained.module, toy, rows))).numpy()
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
    data = load_data(tmp_path, min_positives=1)
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
    np.testing.assert_array_equal(data.batch(rows).numpy(), want)


@settings(max_examples=10, deadline=None)
@given(peaks=st.lists(st.tuples(st.sampled_from(["chr1", "chr2", "chr8"]), st.integers(0, 3000), st.integers(1, 400)), min_size=1, max_size=12))
def test_the_nearest_summit_of_each_window(peaks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("summits")
    write_directory(folder)
    lines = [f"{chrom}\t{start}\t{start + width}\t.\t0\t.\t0\t0\t0\t{width // 3}\n" for chrom, start, width in peaks]
    (folder / "a.narrowPeak").write_text("".join(lines))
    data = load_data(folder, min_positives=1)
    assert data.with_summits == (0,) and data.summits.shape == (len(data.windows), 1)  # of HepG2's own track alone
    for window, away in zip(data.windows.itertuples(), data.summits[:, 0]):
        middle = (window.start + window.end) // 2
        want = [start + width // 3 - middle for chrom, start, width in peaks if chrom == window.chrom]
        assert abs(away) == min(map(abs, want), default=FAR) and (not want or away in want)


def test_asked_for_summits_a_network_ends_as_large_as_without_and_learns_otherwise(toy, trained, tmp_path):
    pointed = replace(toy, summits=np.where(toy.y[:, :1], 0, FAR), with_summits=(0,))
    made = train(pointed, tmp_path / "whole", replace(RECIPE, summit=0.3))
    train(pointed, tmp_path / "killed", replace(RECIPE, summit=0.3), stop_after=3)
    assert same(made, train(pointed, tmp_path / "killed", replace(RECIPE, summit=0.3)))
    assert made.labels == trained.labels and made.module.head[4].out_features == 2 and not same(made, trained)
    assert label_auroc(toy, toy.rows("test"), predict_logits(made.module, toy, toy.rows("test")))[0] > 0.9
    assert same(train(pointed, tmp_path / "default", RECIPE), train(pointed, tmp_path / "fifth", replace(RECIPE, summit=0.2)))
    assert same(train(pointed, tmp_path / "not asked", replace(RECIPE, summit=0)), trained) and RECIPE.summit is None
    with pytest.raises(InputError, match=r"summit: found 0\.3 for data without summits"):
        train(toy, tmp_path / "none", replace(RECIPE, summit=0.3))
    with pytest.raises(InputError, match="summit: found 2, expected a part of the loss between 0 and 1"):
        train(pointed, tmp_path / "none", replace(RECIPE, summit=2))


def test_the_defaults_are_those_of_the_model_that_ships():
    with safe_open(DATA / "hepg2.safetensors", "np") as file:
        told = file.metadata()
    recipe, config = json.loads(told["recipe"]), json.loads(told["config"])
    ours = vars(Recipe(summit=0.2))  # its data have summits
    assert set(recipe) == set(ours) - {"motifs", "architecture"} and {k for k in recipe if recipe[k] != ours[k]} <= {"half"}  # of the processor
    assert config == {"n_labels": config["n_labels"], **ours["architecture"]}


def test_a_directory_without_data_says_so(tmp_path):
    with pytest.raises(InputError, match=r"found no file .*tracks\.tsv"):
        load_data(tmp_path)
    write_directory(tmp_path)
    with pytest.raises(InputError, match="no track of 'A549'"):
        load_data(tmp_path, cell="A549")
    with pytest.raises(InputError, match="fewer labelled training windows than the 128"):
        train(tmp_path, tmp_path / "out", Recipe(motifs={}))
    (tmp_path / "a.narrowPeak").write_text("chr1\t1400\t1500\n")
    with pytest.raises(InputError, match="no window with a label on the test chromosomes chr8, chr9, chr22, expected at least one"):
        held_out_windows(load_data(tmp_path))
    stopped = CliRunner().invoke(app, ["train", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")])
    assert stopped.exit_code == 2 and "tracks.tsv, expected a table of the tracks" in stopped.output


@pytest.mark.long
def test_the_command_trains_members_that_can_be_asked_together(tmp_path):
    pytest.importorskip("pyjaspar")
    write_directory(tmp_path, 120_000)
    peaks = "".join(f"{c}\t{s}\t{s + 200}\n" for c in ("chr1", "chr2", "chr16", "chr8") for s in range(2000, 119_000, 1000))
    (tmp_path / "a.narrowPeak").write_text(peaks)
    command = ["train", "--data", str(tmp_path), "--cell", "K562", "--members", "2", "--epochs", "1", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    made, card = tmp_path / "out" / "k562.safetensors", tmp_path / "out" / "k562_model_card.md"
    assert f"--model {made}" in done.output and f"card: {card}" in done.output
    both = load_model(str(made))
    assert both.labels[0].startswith("K562") and len(both.members) == 2 and both.length == 1000
    assert not same(*both.members)
    assert "2 convolutional networks" in card.read_text() and f"| {both.labels[0]} |" in card.read_text()
    assert set(both.label_warnings) <= set(both.labels)
    again = CliRunner().invoke(app, [*command, "--no-card"])  # a finished run is read, not repeated
    assert again.exit_code == 0 and "epoch" not in again.output and "card" not in again.output


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9))
def test_motif_hits_are_those_of_a_scan_letter_by_letter(seed, width):
    rng, data = np.random.default_rng(seed), toy_data(n=60, length=40)
    counts = rng.integers(0, 30, (4, width)) + 1.0
    odds = np.log2((counts / counts.sum(0) + 0.01) / 1.04 / 0.25)
    x = data.batch(data.rows("test")).numpy()
    assert len(x) >= 6
    want = [max((o * w[:, i:i + width]).sum() for o in (odds, odds[::-1, ::-1]) for i in range(40 - width + 1)) for w in x]
    names, hits = motif_baseline(data, {"M": counts})
    assert names == ["M"]
    np.testing.assert_allclose(hits[:, 0], want, rtol=1e-5, atol=1e-5)


def test_jaspar_keeps_all_versions_of_a_motif():
    pytest.importorskip("pyjaspar")
    found = jaspar(["MAFK", "CTCF"])
    assert found["MAFK"]["MA0496.1"].shape == (4, 15) and found["MAFK"]["MA0496.4"].shape == (4, 10)
    assert {v.split(".")[0] for v in found["CTCF"]} >= {"MA0139"} and len(jaspar(None)) > 700


def test_a_planted_motif_is_found_by_the_network_that_learnt_it_and_by_no_other(toy, trained):
    rng = np.random.default_rng(2)
    own = np.eye(4)[:, ["ACGT".index(c) for c in "TGACTCAT"]] * 9
    motifs = {f"M{i}": rng.dirichlet([0.1] * 4, 8).T * 100 for i in range(12)} | {"FOS::JUN": own}
    data = replace(toy, targets=("JUN", "M3"))
    table = planting_table(trained.module, data, motifs).set_index("label")
    learnt, noise = table.loc["motif"], table.loc["noise"]
    assert learnt.own == learnt.best == "FOS::JUN" and learnt["rank"] == 1 and learnt.z > 2 and learnt.effect == learnt.best_effect > 1
    assert learnt.share > 0.95 and learnt.found and abs(noise.effect) < learnt.effect / 4
    torch.manual_seed(0)
    fresh = planting_table(ConvNet(n_labels=2, **SMALL), data, motifs).set_index("label")
    assert abs(fresh.effect["motif"]) < learnt.effect / 10
    pd.testing.assert_frame_equal(table, planting_table(trained.module, data, motifs).set_index("label"))
    assert list(planting_table(trained.module, replace(toy, targets=("JUN", "DNASE")), motifs).label) == ["motif"]
    metrics = pd.DataFrame({"label": ["motif", "noise"], "verdict": "use"})
    assert label_warnings(metrics, table.assign(found=[True, False]).reset_index()) == {"noise": ["own_motif_not_found"]}


def reasons(r):
    "The rule of the verdict, written anew."
    told = {f"only {r.positives} test positives": r.positives < 40, "AUROC may be below 0.65": r.auroc_low < 0.65,
            "no better than 6-mers": r.auroc < r.kmer_auroc, "no better than one motif": r.auroc < r.motif_auroc}
    return "weak: " + ", ".join(text for text, so in told.items() if so) if any(told.values()) else "use"


def test_the_shipped_card_and_metrics_agree():
    metrics = pd.read_csv(DATA / "hepg2_metrics.csv")
    model = load_model("hepg2")
    own = [label for label in model.labels if label.startswith(("HepG2_", "AnyCell_")) and "_decoy" not in label]
    assert list(metrics.label) == own and len(own) >= 300
    assert len(set(model.labels)) == len(model.labels) and len(model.members) == 5
    assert (DATA / "hepg2.safetensors").stat().st_size <= 20e6
    card = (DATA / "hepg2_model_card.md").read_text()
    for r in metrics[metrics.source != "consensus"].itertuples():
        assert f"| {r.label} | {r.positives} | {r.auroc:.3f} ({r.auroc_low:.3f}–{r.auroc_high:.3f})" in card
    assert [reasons(r) for r in metrics.itertuples()] == list(metrics.verdict)
    dnase = metrics.set_index("label").loc["HepG2_DNase_None"]
    factors = metrics[(metrics.source == "peaks") & (metrics.label != "HepG2_DNase_None")]
    assert dnase.auroc >= 0.92
    assert factors.auroc.median() > factors.kmer_auroc.median() + 0.03
    planted = pd.read_csv(DATA / "hepg2_planted.csv")
    lost, weak = set(planted.label[planted["rank"] > 3]), set(metrics.label[metrics.verdict != "use"])
    assert {k for k, v in model.label_warnings.items() if "own_motif_not_found" in v} == lost
    assert {k for k, v in model.label_warnings.items() if "weak_label" in v} == weak


@pytest.mark.long
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
        got = auroc(p[:, model.index(label)], y)[0]
        assert got == pytest.approx(metrics.quick_auroc[label], abs=2e-3)


# --- further labels and windows ----------------------------------------------------------------------------------------

def write_sources(folder: Path) -> None:
    "A directory with consensus tracks, weak peaks, sites and DNase beside what `write_directory` makes."
    write_directory(folder, 40_000)

    def peaks(name, size, step, shift=0):
        rows = [(c, s + shift, s + shift + size) for c in ("chr1", "chr2", "chr16", "chr8") for s in range(2000, 39_000, step)]
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text("".join(f"{c}\t{s}\t{e}\n" for c, s, e in rows))

    peaks("dnase.bed", 600, 1000)
    peaks("a.narrowPeak", 300, 4000)
    peaks("new.bed", 600, 3000)
    peaks("far.bed", 300, 4000, shift=2500)
    peaks("weak/REST.narrowPeak.gz", 300, 2000)
    (folder / "weak" / "REST.narrowPeak.gz").write_bytes(gzip.compress((folder / "weak" / "REST.narrowPeak.gz").read_bytes()))
    tracks = pd.read_csv(folder / "tracks.tsv", sep="\t")
    tracks.loc[len(tracks)] = dict(cell="HepG2", target="DNase", track="DNase", file="dnase.bed")
    tracks.loc[len(tracks)] = dict(cell="K562", target="DNase", track="DNase", file="dnase.bed")
    tracks.loc[len(tracks)] = dict(cell="HepG2", target="ZNF274", track="ZNF274", file="far.bed")
    tracks.to_csv(folder / "tracks.tsv", sep="\t", index=False)
    further = [("MAX", "new.bed", "no"), ("NEW", "new.bed", "no"), ("MIXED", "new.bed", "yes"), ("REST", "a.narrowPeak", "no"),
               ("ZNF274", "a.narrowPeak", "no"), ("RARE", "empty.narrowPeak", "no")]
    pd.DataFrame([dict(cell="HepG2", target=t, track=f"consensus_{t}", file=f, doubtful=d) for t, f, d in further]
                 ).to_csv(folder / "consensus.tsv", sep="\t", index=False)
    bases = ["".join(r) for r in np.random.default_rng(9).choice(list("ACGT"), (6, 200))]
    pd.DataFrame({"chrom": ["chr1", "chr2", "chr1", "chr8", "chr16", "chr3"], "summit": range(1000, 7000, 1000),
                  "cell": ["HepG2", "K562", "hESC", "HepG2", "HepG2", "HepG2"], "sequence": bases,
                  "bound_in_hepg2": ["NEW,REST", "", "MAX,MIXED", "NEW", "NEW", "ZNF274"]}
                 ).to_csv(folder / "sites.tsv.gz", sep="\t", index=False)


OPTIONS = DataOptions(consensus="consensus.tsv", weak="weak", sites="sites.tsv.gz", pooled=1000, decoys=3)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    write_sources(folder)
    return folder, load_data(folder, min_positives=5, options=OPTIONS)


def column(data, label):
    k = data.labels.index(label)
    return data.y[:, k], data.known[:, k], data.in_loss(np.arange(len(data.y)))[:, k]


def test_further_labels_are_named_as_what_they_are(sources):
    _, data = sources
    assert dict(zip(data.labels, data.sources)) == {
        "HepG2_NRSF_None": "peaks", "HepG2_DNase_None": "peaks", "HepG2_ZNF274_None": "peaks",
        "HepG2_MAX_None": "consensus", "HepG2_NEW_None": "consensus", "AnyCell_MAX_None": "pooled", "AnyCell_ZNF274_None": "pooled",
        "HepG2_decoy01_None": "decoy", "HepG2_decoy02_None": "decoy", "HepG2_decoy03_None": "decoy",
        "K562_MAX_None|HaibMax": "peaks", "K562_MAX_None|SydhMax": "peaks", "K562_DNase_None": "peaks"}
    assert data.focus.tolist() == [not label.startswith("K562") for label in data.labels]


def test_without_options_nothing_changes(sources):
    folder, more = sources
    data = load_data(folder, min_positives=5)
    assert data.taught is None and not {"consensus", "pooled", "decoy"} & set(data.sources)
    n = len(data.windows)
    for label in data.labels:
        np.testing.assert_array_equal(column(data, label)[:2], [a[:n] for a in column(more, label)[:2]])
    assert not more.known[n:].any()  # no network is judged by sites


def test_doubtful_negatives_stay_out_of_the_loss_but_are_judged(sources):
    _, data = sources
    y, known, taught = column(data, "HepG2_MAX_None")
    other = column(data, "K562_MAX_None|HaibMax")[0]
    assert (known & other & ~y).any()
    np.testing.assert_array_equal((known & ~taught), known & other & ~y)
    y, known, taught = column(data, "HepG2_NRSF_None")  # has weak peaks, at every second of which there is none of its own
    assert (known & ~taught).any() and not (known & ~taught & y).any()
    _, known, taught = column(data, "HepG2_NEW_None")  # no other cell has it
    assert taught[known].all()


def test_pooled_labels_are_those_of_any_cell(sources):
    _, data = sources
    y, known, _ = column(data, "AnyCell_MAX_None")
    parts = [column(data, label) for label in ("HepG2_MAX_None", "K562_MAX_None|HaibMax", "K562_MAX_None|SydhMax")]
    np.testing.assert_array_equal(y[known], np.any([p[0] for p in parts], 0)[known])


def test_decoys_are_whole_open_peaks_matched_in_size(sources):
    _, data = sources
    opened = column(data, "HepG2_DNase_None")[0]
    sizes = []
    for j in (1, 2, 3):
        y = column(data, f"HepG2_decoy0{j}_None")[0]
        assert not (y & ~opened).any()
        neighbours = opened[:-1] & opened[1:] & (np.diff(data.windows.start) == 200)
        assert (y[:-1] == y[1:])[neighbours].all()  # never a part of a peak
        sizes.append(y.sum())
    assert min(sizes) > 0 and max(sizes) <= opened.sum() / 2 + 5


def test_sites_teach_and_stand_in_the_middle_of_an_empty_window(sources):
    folder, data = sources
    table = pd.read_csv(folder / "sites.tsv.gz", sep="\t", keep_default_na=False)
    sites = np.arange(len(data.windows))[-4:]  # those on chr8 and chr16 are left out
    assert data.windows.chrom.iloc[sites].tolist() == ["chr1", "chr2", "chr1", "chr3"]
    kept = table[~table.chrom.isin(["chr8", "chr16"])]
    np.testing.assert_array_equal(data.batch(sites)[:, :, 400:600], one_hot(list(kept.sequence)))
    np.testing.assert_array_equal(data.batch(sites, shift=30)[:, :, 370:570], one_hot(list(kept.sequence)))
    want = {"HepG2_DNase_None": [1, 0, 0, 1], "K562_DNase_None": [0, 1, 0, 0], "HepG2_NEW_None": [1, 0, 0, 0], "HepG2_MAX_None": [0, 0, 1, 0]}
    for label, y in want.items():
        got = [a[sites].tolist() for a in column(data, label)]
        assert got == [[bool(v) for v in y], [False] * 4, [True] * 4]
    for label, y in {"HepG2_NRSF_None": [1, 0, 0, 0], "AnyCell_MAX_None": [0, 0, 1, 0], "HepG2_ZNF274_None": [0] * 4,  # its two tracks disagree
                     "K562_MAX_None|HaibMax": [0] * 4, "HepG2_decoy01_None": [0] * 4}.items():
        assert [a[sites].tolist() for a in column(data, label)] == [[bool(v) for v in y], [False] * 4, [bool(v) for v in y]]


def test_same_seed_same_data_and_another_seed_other_decoys(sources):
    folder, data = sources
    again, other = (load_data(folder, min_positives=5, options=replace(OPTIONS, seed=seed)) for seed in (0, 1))
    np.testing.assert_array_equal(again.codes, data.codes)
    np.testing.assert_array_equal(again.y, data.y)
    decoys = np.array(data.sources) == "decoy"
    assert (other.y[:, decoys] != data.y[:, decoys]).any() and (other.y[:, ~decoys] == data.y[:, ~decoys]).all()
    assert (other.codes != data.codes).any()


def test_a_network_learns_from_all_sources(sources, tmp_path):
    _, data = sources
    recipe = replace(RECIPE, epochs=1, architecture=SMALL | {"length": 1000})
    model = train(data, tmp_path, recipe)
    assert model.labels == data.labels


def test_what_a_source_lacks_is_said(tmp_path):
    write_sources(tmp_path)
    for options, message in ((DataOptions(consensus="none.tsv"), "data: found no file .*none.tsv, expected a table of further tracks"),
                             (DataOptions(sites="none.gz"), "data: found no file .*none.gz, expected a table of open sites"),
                             (DataOptions(sites="tracks.tsv"), "data: found no column bound_in_hepg2, chrom, sequence, summit in"),
                             (DataOptions(decoys=2), "decoys: found no factor of HepG2 with 150 to")):
        with pytest.raises(InputError, match=message):
            load_data(tmp_path, options=options)
    tracks = pd.read_csv(tmp_path / "tracks.tsv", sep="\t")
    tracks[tracks.target != "DNase"].replace("K562", "GM").to_csv(tmp_path / "tracks.tsv", sep="\t", index=False)
    with pytest.raises(InputError, match="decoys: found no track DNase of GM"):
        load_data(tmp_path, cell="GM", options=DataOptions(decoys=1))


TABLE = "CEBPD HDAC2 FOSL2 TAF1 ELF1 RXRA EZH2 HNF4G".split()  # factors of the published table with many peaks in HepG2,
SCARCE = "NFIC BHLHE40 SP2 SP1 TCF12".split()  # and with few


def test_the_table_of_sources_covers_the_published_one():
    table = pd.read_csv(DATA / "hepg2_sources.csv").set_index("label")
    own = table[table.focus & (table.source != "decoy")]
    assert len(own) >= 300 and (own.test >= 40).sum() >= 300 and (table.source == "decoy").sum() == 24
    assert all(own.test[f"HepG2_{target}_None"] >= 40 for target in TABLE)
    assert all(own.test[f"AnyCell_{target}_None"] >= 40 for target in SCARCE)
    assert "HepG2_SP1_None" not in table.index  # its set was mixed up with another factor's


def test_real_sources_give_the_stored_counts(tmp_path):
    "Some of the tracks, so that it takes seconds: a label's counts do not depend on the others."
    if not (HG19 / "tracks_consensus.tsv").is_file():
        pytest.skip("needs ../shared/hg19 with tracks_consensus.tsv")
    for path in HG19.iterdir():
        if not path.name.startswith("tracks"):
            (tmp_path / path.name).symlink_to(path)
    for name in ("tracks.tsv", "tracks_consensus.tsv"):
        tracks = pd.read_csv(HG19 / name, sep="\t")
        tracks[tracks.target.isin([*TABLE, *SCARCE, "DNase", "GABPA", "ZNF143"])].to_csv(tmp_path / name, sep="\t", index=False)
    data = load_data(tmp_path, options=ALL_SOURCES)
    stored, train, test = pd.read_csv(DATA / "hepg2_sources.csv").set_index("label"), data.rows("train"), data.rows("test")
    counts = pd.DataFrame({"train": data.y[train].sum(0), "left_out": (data.known[train] & ~data.in_loss(train)).sum(0),
                           "test": data.y[test].sum(0)}, index=data.labels)[np.array(data.sources) != "decoy"]
    assert len(counts) >= 40
    pd.testing.assert_frame_equal(counts, stored.loc[counts.index, list(counts)], check_names=False)
    decoys, opened = np.array(data.sources) == "decoy", data.labels.index("HepG2_DNase_None")
    assert decoys.sum() == 24 and not (data.y[:, decoys] & ~data.y[:, [opened]]).any()
