"""What is asked: a stretch, or variants. The effects are those of saturation, nothing else is computed, and everything after it uses them rightly."""
import gzip
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import given, settings, strategies as st
from torch import nn
from typer.testing import CliRunner

from conftest import quiet, toy_experiment, toy_model
from deepmr.cli import app
from deepmr.core import Execution, InputError
from deepmr.draws_mr import mask_bootstrap
from deepmr.dropout import MaskSampler
from deepmr.effects import make_engine, mutation_effects, window_draws
from deepmr.experiment import plan
from deepmr.mr import from_effects, ivw
from deepmr.mutagenesis import Mutations, saturate
from deepmr.networks import ConvNet, Ensemble, SequenceModel, save_model
from deepmr.pipeline import run, write_effects
from deepmr.plots import mr_scatter, mutation_map
from deepmr.regions import Genome, one_hot
from deepmr.tables import effect_matrix, open_effects, read_local
from deepmr.variants import place_variants, read_variants, variant_table, windows_around

LABELS = ["X_TF1_None", "X_TF2_None", "X_DNase_None"]
silent = Execution(announce=lambda line: None)


def dna(length, seed):
    return one_hot("".join(np.random.default_rng(seed).choice(list("ACGT"), length)))[0]


class Mixing(nn.Module):
    "Every position looks at every other, as in Enformer: the fast engine computes it in full from there on."

    def __init__(self):
        super().__init__()
        self.conv, self.attention = nn.Conv1d(4, 8, 5, padding=2), nn.MultiheadAttention(8, 2, batch_first=True)
        self.drop, self.last = nn.Dropout(0.3), nn.Linear(8, 3)

    def forward(self, x):
        h = torch.relu(self.conv(x)).transpose(1, 2)
        return torch.sigmoid(self.last(self.drop(h + self.attention(h, h, h, need_weights=False)[0]).mean(1)))


class Dilated(nn.Module):
    "Without pooling, where the fast engine takes a few positions at a time."

    def __init__(self):
        super().__init__()
        layers = [nn.Sequential(nn.ReLU(), nn.Dropout(0.2), nn.Conv1d(8, 8, 3, padding=d, dilation=d)) for d in (1, 4, 16)]
        self.layers = nn.Sequential(nn.Conv1d(4, 8, 5, padding=2), *layers, nn.ReLU(), nn.Conv1d(8, 3, 1))

    def forward(self, x):
        return self.layers(x).mean(-1)


def built(kind, seed=0):
    torch.manual_seed(seed)
    model = toy_model(seed) if kind in ("dropout", "none") else SequenceModel({"mixing": Mixing, "dilated": Dilated}[kind](), LABELS, 120, kind)
    for part in model.module.modules():
        if kind == "none" and isinstance(part, nn.Dropout):
            part.p = 0.0
    model.module.double()
    return model


KINDS = ["dropout", "ensemble", "mixing", "dilated"]


@pytest.fixture(scope="module")
def whole():
    "For each kind of model and engine: the model, and the draws of saturation."
    made = {}
    for kind in KINDS:
        model = Ensemble([built("none", 1), built("none", 2)]) if kind == "ensemble" else built(kind)
        x = np.stack([dna(120, 3), dna(120, 4)])
        for engine in ("plain", "propagate"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                draws = 2 if kind == "ensemble" else 3
                full = mutation_effects(model, x, LABELS[:2], LABELS[2], draws, 5, engine, windows=["a", "b"], keep_draws=True)
            made[kind, engine] = model, x, full
    return made


SAME = dict(rtol=1e-5, atol=1e-9)  # the dataset is float32


@pytest.mark.filterwarnings("ignore:model .* computed in full")
@pytest.mark.parametrize("engine", ["plain", "propagate"])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=6, deadline=None)
@given(ends=st.tuples(st.integers(0, 119), st.integers(1, 120)).map(sorted).filter(lambda e: e[0] < e[1]))
def test_a_stretch_is_that_slice_of_saturation(whole, kind, engine, ends):
    model, x, full = whole[kind, engine]
    draws = full.attrs["n_draws"]
    part = mutation_effects(model, x, LABELS[:2], LABELS[2], draws, 5, engine, windows=["a", "b"], keep_draws=True, span=tuple(ends))
    assert part.position.values.tolist() == list(range(*ends)) and "asked" not in part
    xr.testing.assert_allclose(part, full.isel(position=slice(*ends)), **SAME)
    assert (part.ref == full.ref.isel(position=slice(*ends))).all()


@pytest.mark.filterwarnings("ignore:model .* computed in full")
@pytest.mark.parametrize("engine", ["plain", "propagate"])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=6, deadline=None)
@given(rows=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 119), st.integers(1, 3)), min_size=1, max_size=12))
def test_variants_are_those_cells_of_saturation(whole, kind, engine, rows):
    model, x, full = whole[kind, engine]
    rows = [("a", 0, 1), ("b", 119, 1), *rows]
    codes = dict(zip("ab", x.argmax(1)))
    asked = pd.DataFrame([(w, p, "ACGT"[codes[w][p]], "ACGT"[(codes[w][p] + k) % 4]) for w, p, k in rows],
                         columns=["window", "position", "ref", "alt"])
    draws = full.attrs["n_draws"]
    part = mutation_effects(model, x, LABELS[:2], LABELS[2], draws, 5, engine, windows=["a", "b"], keep_draws=True, variants=asked)
    cells = {(w, p, a) for w, p, _, a in asked.itertuples(index=False)}
    assert set(part.position.values) == {p for _, p, _ in cells}
    found = part.asked.to_series()
    assert set(found.index[found]) == cells
    want = full.sel(position=part.position).where(part.asked)
    for name in ("bx", "bxse", "by", "byse", "bxby_cov", "draws_x", "draws_y"):
        np.testing.assert_allclose(part[name].transpose(*want[name].dims), want[name], **SAME)
    xr.testing.assert_allclose(part[["x_reference", "y_reference"]], full[["x_reference", "y_reference"]], **SAME)


@pytest.mark.parametrize("engine", ["plain", "propagate"])
def test_without_dropout_masks_or_members_one_pass_gives_the_same(engine):
    "A network without dropout, under no masks at all."
    model, x = built("none"), dna(120, 3)
    machine, tensor, every = make_engine(model, [0, 2], engine), torch.from_numpy(x).double(), saturate(x)
    reference, effects = machine.draw(tensor, every, {})
    for some in (saturate(x, (17, 60)), saturate(x, (119, 120)), every[np.array([0, 5, 100, 211, 359])]):
        at = np.searchsorted(4 * every.position + every.alt, 4 * some.position + some.alt)
        again, part = machine.draw(tensor, some, {})
        torch.testing.assert_close(part, effects[at], rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(again, reference, rtol=1e-12, atol=0)


def test_nothing_else_is_computed(toy):
    "One pass a mutation and one for the reference in the plain engine; no other positions in the fast one."
    x, sampler, passed = dna(120, 1), MaskSampler(toy), []
    engine = make_engine(toy, [0, 2], "plain")
    window_draws(engine, x, sampler, "w", 2, 1)  # its replica of the network is made
    for asked, n in ((saturate(x, (40, 50)), 30), (Mutations.chosen(x, [7], (x.argmax(0)[[7]] + 1) % 4), 1), (None, 360)):
        passed.clear()
        handle = nn.modules.module.register_module_forward_pre_hook(
            lambda module, given: passed.append(len(given[0])) if isinstance(module, ConvNet) else None)
        window_draws(engine, x, sampler, "w", 2, 1, mutations=asked)
        handle.remove()
        assert sum(passed) == 2 * (n + 1)
    fast, tensor = make_engine(toy, [0, 2], "propagate"), torch.from_numpy(x)
    assert [(at, n) for at, n, _ in fast.window(tensor, saturate(x, (40, 50))).blocks] == [(40, 10)]
    far = Mutations.chosen(x, [3, 4, 110], (x.argmax(0)[[3, 4, 110]] + 1) % 4)
    assert [(at, n) for at, n, _ in fast.window(tensor, far).blocks] == [(3, 2), (110, 1)]


def test_masks_do_not_depend_on_what_is_asked(toy):
    "The reference prediction of a draw is a function of its masks: the same bytes whatever is mutated."
    x, sampler = dna(120, 1), MaskSampler(toy)
    for engine in ("plain", "propagate"):
        machine = make_engine(toy, [0, 2], engine)
        whole, part = (window_draws(machine, x, sampler, "w", 4, 1, mutations=m) for m in (None, saturate(x, (7, 9))))
        assert whole.reference.tobytes() == part.reference.tobytes()


ASKED_WRONG = [
    (dict(span=(5, 5)), "span: found 5-5"), (dict(span=(-1, 5)), "span: found -1-5"), (dict(span=(0, 121)), "within 0-120"),
    (dict(span=3), "span: found 3"),
    (dict(span=(0, 5.0)), "two whole numbers"), (dict(span=[(0, 5)] * 3), "3 stretches for 1 windows"), (dict(span="0-5"), "two whole numbers"),
    (dict(span=(0, 5), variants=pd.DataFrame({"window": ["w"], "position": [1], "alt": ["A"]})), "expected either"),
    (dict(variants=[(1, "A")]), "variants: found a list"), (dict(variants=pd.DataFrame({"window": ["w"], "alt": ["A"]})), "a table without position"),
    (dict(variants=pd.DataFrame({"window": ["v"], "position": [1], "alt": ["A"]})), "found window 'v'"),
    (dict(variants=pd.DataFrame({"window": [], "position": [], "alt": []})), "found none in window w"),
    (dict(variants=pd.DataFrame({"window": ["w"], "position": [120], "alt": ["A"]})), "from 0 to 119"),
    (dict(variants=pd.DataFrame({"window": ["w"], "position": [1.5], "alt": ["A"]})), "expected whole numbers"),
    (dict(variants=pd.DataFrame({"window": ["w"], "position": [1], "alt": ["AC"]})), "alt: found -1"),
]


@pytest.mark.parametrize("asked, words", ASKED_WRONG)
def test_what_cannot_be_asked_is_one_sentence(toy, asked, words):
    with pytest.raises(InputError, match=words) as error:
        mutation_effects(toy, dna(120, 1)[None], 0, 2, 2, windows=["w"], **asked)
    assert "\n" not in str(error.value)


def test_the_reference_base_is_no_variant_and_a_wrong_ref_is_refused(toy):
    x = dna(120, 1)
    own = "ACGT"[x[:, 7].argmax()]
    other = next(b for b in "ACGT" if b != own)
    with pytest.raises(InputError, match=f"found {own} at position 7, the window's own base"):
        mutation_effects(toy, x[None], 0, 2, 2, windows=["w"], variants=pd.DataFrame({"window": ["w"], "position": [7], "alt": [own]}))
    third = next(b for b in "ACGT" if b not in own + other)
    with pytest.raises(InputError, match=f"found ref {other} at position 7 of window w, which has {own} there"):
        mutation_effects(toy, x[None], 0, 2, 2, windows=["w"],
                         variants=pd.DataFrame({"window": ["w"], "position": [7], "ref": [other], "alt": [third]}))


def test_estimators_and_figures_use_the_mutations_asked(toy):
    "Cells that were not asked are no mutations that were dropped, and positions keep their place in the window."
    x = dna(120, 1)
    full = mutation_effects(toy, x[None], 0, 2, 8, keep_draws=True)
    some = saturate(x, (20, 50))[::7]
    table = pd.DataFrame({"window": "window0", "position": some.position, "alt": np.array(list("ACGT"))[some.alt]})
    part = mutation_effects(toy, x[None], 0, 2, 8, keep_draws=True, variants=table)
    columns = from_effects(part)
    assert columns.position.tolist() == some.position.tolist() and np.isfinite(columns.draws_x).all()
    every = from_effects(full)
    rows = np.searchsorted(4 * saturate(x).position + saturate(x).alt, 4 * some.position + some.alt)
    assert ivw(part).n == len(some) and "dropped_unusable" not in ivw(part).codes
    assert ivw(part).estimate == pytest.approx(ivw(*(v[rows] for v in every[:4])).estimate, rel=1e-5)
    one, other = mask_bootstrap(part), mask_bootstrap(every.draws_x[:, rows], every.draws_y[:, rows], every.position[rows])
    assert (one.estimate, one.se) == pytest.approx((other.estimate, other.se), rel=1e-4)
    assert mr_scatter(part).get_xlim()
    figure = mutation_map(part)
    assert figure.axes[3].get_xlabel() == "mutated position in the window (bp)"
    assert [t.get_text() for t in figure.axes[3].get_xticklabels()] == [str(p) for p in np.unique(some.position)[::2]]
    stretch = mutation_effects(toy, x[None], 0, 2, 8, span=(33, 60))
    figure = mutation_map(stretch)
    assert [t.get_text() for t in figure.axes[3].get_xticklabels()] == ["40", "50"] and figure.axes[3].get_xlabel() == "position in the window (bp)"
    with pytest.raises(InputError, match="found 30-40, expected positions within 33-60"):
        mutation_map(stretch, span=(30, 40))
    both = mutation_effects(toy, np.stack([x, dna(120, 2)]), 0, 2, 3, span=[(0, 5), (3, 9)])
    assert both.position.values.tolist() == list(range(9)) and both.asked.sum(("position", "alt")).values.tolist() == [15, 18]
    assert len(from_effects(both.isel(window=1)).bx) == 18 and mutation_map(both.isel(window=1)).axes[3].get_xlim() == (-0.5, 5.5)


# ---------------------------------------------------------------------------------------------------------------- VCF

HEADER = "##fileformat=VCFv4.2\n##contig=<ID=chr1>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


def line(pos, ref, alt, chrom="chr1", name="."):
    return f"{chrom}\t{pos}\t{name}\t{ref}\t{alt}\t.\t.\t.\n"


READ = {  # records -> (position, ref + alt) of those kept, how many of which kind are left out
    "one": (line(10, "A", "C"), [(9, "AC")], {}),
    "lower case": (line(10, "a", "c"), [(9, "AC")], {}),
    "several alleles": (line(10, "A", "C,T"), [(9, "AC"), (9, "AT")], {}),
    "padded": (line(10, "CAT", "CGT,CAT,TAT"), [(10, "AG"), (9, "CT")], {"equal to the reference": 1}),
    "indels": (line(10, "A", "AC,G") + line(20, "ACG", "A"), [(9, "AG")], {"insertions or deletions": 2}),
    "bases at once": (line(10, "AC", "GT") + line(20, "A", "C"), [(19, "AC")], {"of several bases at once": 1}),
    "N": (line(10, "N", "C") + line(11, "A", "N") + line(12, "R", "A") + line(20, "A", "C"), [(19, "AC")],
          {"with letters other than A, C, G and T": 3}),
    "symbolic": (line(10, "A", "<DEL>") + line(11, "A", "]chr1:20]A") + line(12, "A", "<*>,C"), [(11, "AC")], {"symbolic or a break end": 3}),
    "star": (line(10, "A", "*,C") + line(11, "A", "."), [(9, "AC")], {"with no base of its own (* or .)": 2}),
    "twice": (line(10, "A", "C", name="rs1") + line(10, "A", "C,G", name="rs2"), [(9, "AC"), (9, "AG")], {"repeated": 1}),
    "two chromosomes": (line(10, "A", "C") + line(10, "A", "C", "chr2"), [(9, "AC"), (9, "AC")], {}),
    "not sorted": (line(30, "A", "C") + line(10, "G", "C"), [(29, "AC"), (9, "GC")], {}),
    "Windows line ends": (line(10, "A", "C").replace("\n", "\r\n"), [(9, "AC")], {}),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("records, kept, left_out", READ.values(), ids=READ)
def test_what_is_read_of_a_vcf(tmp_path, records, kept, left_out, packed):
    path = tmp_path / ("a.vcf.gz" if packed else "a.vcf")
    path.write_bytes(gzip.compress((HEADER + records).encode()) if packed else (HEADER + records).encode())
    found = read_variants(path)
    assert list(zip(found.table.position, found.table.ref + found.table.alt)) == kept and found.left_out == left_out
    assert bool(found.notes) == bool(left_out)


def test_genotypes_are_not_needed_and_not_read(tmp_path):
    (tmp_path / "s.vcf").write_text(HEADER.rstrip("\n") + "\tFORMAT\tS1\n" + "chr1\t10\trs7\tA\tC\t9\tq10\tDP=3\tGT\t0|1\n")
    assert read_variants(tmp_path / "s.vcf").table.id.tolist() == ["rs7"]


packed = gzip.compress((HEADER + "".join(line(i, "A", "C") for i in range(1, 20000))).encode())
UNREADABLE = {
    "no header": line(10, "A", "C"), "no fileformat": HEADER.split("\n", 1)[1] + line(10, "A", "C"), "empty": "", "text": "hello\nworld\n",
    "a bed": "chr1\t10\t20\n", "position a word": HEADER + line(10, "A", "C") + line("x", "A", "C"), "position negative": HEADER + line(-3, "A", "C"),
    "too few columns": HEADER + "chr1\t10\t.\tA\n", "spaces for tabs": HEADER + line(10, "A", "C").replace("\t", " "), "header alone": HEADER,
    "no base changes": HEADER + line(10, "A", "<DEL>"), "cut": packed[:len(packed) // 2], "damaged": packed[:4000] + b"\0\0\0\0" + packed[4004:],
    "no utf-8": HEADER.encode() + b"chr1\t11\t\xff\xfe\tA\tC\t.\t.\t.\n", "a zero byte": HEADER + line(10, "A", "C", name="\0"),
    "random": bytes(range(256)) * 9,
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_a_vcf_that_cannot_be_read_is_one_sentence(tmp_path, content):
    (path := tmp_path / "a.vcf").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=r"^vcf: ") as error:
        read_variants(path)
    assert "\n" not in str(error.value) and "a.vcf" in str(error.value)


@pytest.mark.parametrize("path", ["none.vcf", "", ".", "a" * 300, 3])
def test_a_vcf_that_is_not_there(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^vcf: found"):
        read_variants(path)


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.vcf").write_text(HEADER + line(10, "A", "C"))
    monkeypatch.setitem(__import__("sys").modules, "pysam", None)
    with pytest.raises(InputError, match=r"pip install 'deepmr\[vcf\]'"):
        read_variants(tmp_path / "a.vcf")


class Files(NamedTuple):
    "A folder with a genome, its bases, and a function that writes a VCF whose REF is the genome's."

    folder: Path
    bases: str
    vcf: Callable[..., str]


@pytest.fixture
def files(toy_files):
    genome = Genome(toy_files / "g.fa")
    bases = genome.fetch("chr1", 0, 3000)

    def vcf(places, name="a.vcf", chrom="chr1"):
        text = "".join(line(p + 1, bases[p], "ACGT"[("ACGT".index(bases[p]) + 1) % 4], chrom, f"rs{p}") for p in places)
        (toy_files / name).write_text(HEADER + text)
        return str(toy_files / name)

    return Files(toy_files, bases, vcf)


@settings(max_examples=25, deadline=None)
@given(places=st.lists(st.integers(0, 2999), min_size=1, max_size=30, unique=True),
       starts=st.lists(st.integers(0, 2880), min_size=1, max_size=6, unique=True),
       least=st.integers(1, 4))
def test_every_variant_falls_into_the_windows_that_hold_it(tmp_path_factory, places, starts, least):
    path = tmp_path_factory.mktemp("v") / "a.vcf"
    path.write_text(HEADER + "".join(line(p + 1, "A", "C") for p in places))
    windows = pd.DataFrame({"chrom": "chr1", "start": starts}).assign(end=lambda w: w.start + 120, name=lambda w: [f"w{s}" for s in w.start])
    want = {(f"w{s}", p - s) for s in starts for p in places if s <= p < s + 120}
    held = pd.Series([w for w, _ in want], dtype=object).value_counts()
    want = {(w, p) for w, p in want if held[w] >= least}
    if not want:
        with pytest.raises(InputError, match=r"^vcf: found no window that holds"):
            place_variants(read_variants(path), windows, least)
        return
    placed = place_variants(read_variants(path), windows, least)
    assert set(zip(placed.table.window, placed.table.position)) == want and set(placed.windows.name) == {w for w, _ in want}
    named = {n.code: dict(n.values) for n in placed.notes}
    outside = len(places) - placed.table.place.nunique()
    assert named.get("variants_outside", {}).get("n", 0) == outside
    assert named.get("windows_without_variants", {}).get("n", 0) == len(starts) - len(placed.windows)


def test_a_window_around_each_variant(files):
    folder, vcf = files.folder, files.vcf
    genome = Genome(folder / "g.fa")
    variants = read_variants(vcf([3, 500, 510, 2999]))
    alone, together = (windows_around(variants, 120, genome, alone) for alone in (True, False))
    assert alone.windows.name.tolist() == ["chr1:440-560", "chr1:450-570"] and alone.table.position.tolist() == [60, 60]
    assert together.table.position.tolist() == [60, 70, 50, 60]
    assert "2 too near an end of the sequence" in alone.notes[0].sentence
    with pytest.raises(InputError, match=r"2 too near an end of the sequence"):
        windows_around(read_variants(vcf([3, 2999])), 120, genome)
    other = windows_around(read_variants(vcf([500], chrom="1")), 120, genome)
    assert other.windows.chrom.tolist() == ["chr1"] and "1 is chr1" in other.notes[0].sentence
    refseq = windows_around(read_variants(vcf([500], chrom="NC_000001.10")), 120, genome)
    assert refseq.windows.chrom.tolist() == ["chr1"] and "NC_000001.10 is chr1" in refseq.notes[0].sentence
    with pytest.raises(InputError, match=r"variants on NC_000002.12, and none on chr1"):
        windows_around(read_variants(vcf([500], chrom="NC_000002.12")), 120, genome)
    (folder / "r.fa").write_text((folder / "g.fa").read_text().replace(">chr1", ">NC_000001.11"))
    with pytest.raises(InputError, match=r"variants on NC_000001.10, and none on NC_000001.11"):  # of two assemblies
        windows_around(read_variants(vcf([500], chrom="NC_000001.10")), 120, Genome(folder / "r.fa"))
    text = (folder / "g.fa").read_text()
    (folder / "n.fa").write_text(text[:6 + 495] + "N" + text[6 + 496:])
    found = windows_around(read_variants(vcf([500, 1500])), 120, Genome(folder / "n.fa"))
    assert found.windows.name.tolist() == ["chr1:1440-1560"] and "1 beside letters other than A, C, G and T" in found.notes[0].sentence


@pytest.fixture
def command(files, toy):
    "Run a command on the toy model and genome; its exit code, output and errors."
    folder = files.folder
    config = dict(n_labels=3, channels=(16, 16), kernels=(7, 3), pools=(4, 2), conv_dropout=(0.2, 0.2), hidden=16, hidden_dropout=0.4, length=120)
    save_model(toy, config, folder / "toy.safetensors")

    def invoke(name, *options, exposures="X_TF1_None,X_TF2_None", out="e.nc", workers=1, draws=("--draws", 6)):
        known = ["--model", folder / "toy.safetensors", "--outcome", "X_DNase_None", "--genome", folder / "g.fa", "--workers", workers, *draws]
        done = CliRunner().invoke(app, [name, *map(str, known), "--exposures", exposures, "--out", str(folder / out), *map(str, options)])
        return done.exit_code, done.stdout, done.stderr

    return invoke


def test_effects_of_a_vcf_on_the_command_line(files, command, toy):
    folder, bases, vcf = files.folder, files.bases, files.vcf
    code, out, err = command("effects", "--vcf", vcf([500, 510, 1500]))
    assert code == 0 and "effects of 3 windows" in out
    table = pd.read_csv(folder / "e.csv")
    assert table.pos.tolist() == [501, 501, 511, 511, 1501, 1501] and table.id.tolist()[::2] == ["rs500", "rs510", "rs1500"]
    start = 500 - 60
    full = mutation_effects(toy, one_hot(bases[start:start + 120]), LABELS[:2], LABELS[2], 6, windows=["w"], same_masks=True)
    cell = full.sel(window="w", position=60, alt=table.alt[0])
    np.testing.assert_allclose(table.bx[:2], cell.bx, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(table[["by", "byse"]].iloc[0], [cell.by, cell.byse], rtol=1e-4, atol=1e-7)
    data = xr.load_dataset(folder / "e.nc")
    assert data.position.values.tolist() == [60] and data.asked.dtype == bool and data.asked.sum() == 3
    code, out, err = command("effects", "--vcf", vcf([505, 700, 701]), "--regions", folder / "sites.bed")
    assert code == 0 and pd.read_csv(folder / "e.csv").window.nunique() == 1 and "2 of 3" in err  # 505 alone lies in a window


def test_effects_of_a_vcf_with_the_weights_as_shipped(files, command, toy):
    folder, vcf = files.folder, files.vcf
    code, _, err = command("effects", "--vcf", vcf([500, 510, 1500]), draws=())
    assert code == 0, err
    table = pd.read_csv(folder / "e.csv")
    assert table.pos.tolist() == [501, 501, 511, 511, 1501, 1501] and not {"bxse", "byse", "bxby_cov"} & set(table.columns)  # one pass has none
    x = one_hot(files.bases[440:560])
    full = mutation_effects(toy, x, LABELS[:2], LABELS[2], None, windows=["w"])
    cell = full.sel(window="w", position=60, alt=table.alt[0])
    np.testing.assert_allclose(table.bx[:2], cell.bx, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(table.by[:2], float(cell.by), rtol=1e-4, atol=1e-6)
    two = ",".join([str(folder / "toy.safetensors")] * 2)  # members give standard errors again
    done = CliRunner().invoke(app, ["effects", "--model", two, "--outcome", "X_DNase_None", "--genome", str(folder / "g.fa"), "--exposures",
                                    "X_TF1_None", "--vcf", str(vcf([500, 510])), "--out", str(folder / "m.nc")])
    assert done.exit_code == 0, done.stderr
    assert {"bxse", "byse"} <= set(pd.read_csv(folder / "m.csv").columns)


def test_span_on_the_command_line(files, command):
    folder = files.folder
    command("effects", "--regions", folder / "sites.bed", out="whole.nc")
    code, _, _ = command("effects", "--regions", folder / "sites.bed", "--span", "40-60")
    full, part = xr.load_dataset(folder / "whole.nc"), xr.load_dataset(folder / "e.nc")
    assert code == 0 and part.position.values.tolist() == list(range(40, 60))
    xr.testing.assert_allclose(part, full.isel(position=slice(40, 60)), rtol=1e-4, atol=1e-7)
    code, _, _ = command("effects", "--regions", folder / "sites.bed", "--span", "chr1:200-500")
    part = xr.load_dataset(folder / "e.nc")
    assert code == 0 and part.window.values.tolist() == ["chr1:165-285", "chr1:465-585"] and part.position.values.tolist() == [*range(120)]
    assert part.asked.sum(("position", "alt")).values.tolist() == [3 * 85, 3 * 35]


def test_a_run_on_a_stretch_is_another_run(files, command):
    folder, vcf = files.folder, files.vcf
    regions = ("--regions", folder / "sites.bed", "--windows", 3)
    code, out, _ = command("table1", *regions, "--span", "30-90", out="run")
    assert code == 0 and "x 6 draws x 180 mutations" in out
    record = json.loads((folder / "run" / "run.json").read_text())
    assert record["experiment"]["span"] == [30, 90] and len(record["mutations_sha256"]) == 64
    assert not read_local(folder / "run").warnings.str.contains("few_instruments").any()  # of 60 positions
    name = (folder / "run" / "windows.bed").read_text().split("\t")[3]
    assert open_effects(folder / "run", name).position.values.tolist() == list(range(30, 90))
    assert command("table1", *regions, "--span", "30-90", out="run")[0] == 0  # the same question goes on
    for other in ((), ("--span", "30-91"), ("--vcf", vcf(range(200, 2600, 4)))):
        code, _, err = command("table1", *regions, *other, out="run")
        assert code == 2 and "holds another run" in err
    assert (folder / "run" / "figures" / "mutation_map.png").stat().st_size > 1000
    assert CliRunner().invoke(app, ["report", str(folder / "run")]).exit_code == 0
    assert CliRunner().invoke(app, ["matrix", str(folder / "run")]).exit_code == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_on_variants(files, command, workers):
    "The local slopes are those of the asked mutations, by hand; other processes give the same bytes."
    folder, vcf = files.folder, files.vcf
    path = vcf([*range(480, 570, 6), *range(770, 880, 11), 1100, 1101])
    code, out, err = command("table1", "--vcf", path, "--regions", folder / "sites.bed", "--windows", 3, workers=workers, out="run")
    assert code == 0, err
    assert "windows hold too few variants" in out and "6 of 8, with fewer than 3 positions" in out
    local = read_local(folder / "run")
    assert sorted(set(local.window)) == ["chr1:465-585", "chr1:765-885"]
    for window in ("chr1:465-585", "chr1:765-885"):
        effects = open_effects(folder / "run", window).sel(exposure="X_TF1_None")
        mine = from_effects(effects.isel(window=0))
        row = local[(local.window == window) & (local.exposure == "X_TF1_None") & (local.method == "bootstrap")].iloc[0]
        assert row.estimate == pytest.approx(mine.bx @ mine.by / (mine.bx @ mine.bx), rel=1e-4) and row.n <= len(mine.bx) <= 15
        assert "few_instruments" in row.warnings
    assert json.loads((folder / "run" / "run.json").read_text())["experiment"]["vcf"] == "a.vcf"


def test_few_variants_are_named_and_too_few_refused(files, command):
    vcf = files.vcf
    code, out, _ = command("table1", "--vcf", vcf([500, 510, 520, 530]), "--windows", 3, out="run")
    assert code == 0 and "warning few_instruments" in out
    code, _, err = command("table1", "--vcf", vcf([500, 510]), "--windows", 3, out="run2")
    assert code == 2 and "no window that holds variants at 3 or more positions" in err and "deepmr effects --vcf" in err


def test_a_stretch_of_two_positions_has_no_slope(files, toy):
    folder = files.folder
    table = run(toy_experiment(toy, folder, span=(50, 52)), folder / "run", silent)
    assert table["mean"].isna().all() and table.n_windows.eq(0).all()
    assert set(read_local(folder / "run").warnings) == {"too_few_mutations"} and effect_matrix(folder / "run")["mean"].isna().all()


def test_plans_hold_the_mutations_and_bad_ones_are_refused(files, toy):
    folder, bases = files.folder, files.bases
    asked = toy_experiment(toy, folder)
    assert plan(asked, silent).asked is None
    part = plan(toy_experiment(toy, folder, span="chr1:500-530"), silent)
    assert [len(m) for m in part.asked] == [90] and part.asked[0].position[0] == 35
    wrong = "ACGT"[("ACGT".index(bases[505]) + 2) % 4]
    (folder / "w.vcf").write_text(HEADER + line(501, bases[500], "ACGT"[("ACGT".index(bases[500]) + 1) % 4]) + line(506, wrong, bases[505])
                                  + line(511, bases[510], "ACGT"[("ACGT".index(bases[510]) + 1) % 4]))
    with pytest.raises(InputError, match=f"found REF {wrong} at chr1:506, where the genome has {bases[505]} \\(1 of 3 variants differ\\)"):
        plan(toy_experiment(toy, folder, vcf=str(folder / "w.vcf")), silent)


# As `tests/faults.csv`: each is one line on the error stream, exit code 2, and the argument's name first.
FAULTS = {
    "vcf missing": (["--vcf", "none.vcf"], "vcf: found no file"),
    "vcf a directory": (["--vcf", "."], "vcf: found a directory"),
    "vcf beside span": (["--vcf", "{vcf}", "--span", "1-5"], "span: found --span beside --vcf"),
    "neither vcf nor regions": ([], "Missing option '--regions'"),
    "vcf empty text": (["--vcf", ""], "vcf: found no file ''"),
    "chromosomes beside vcf": (["--vcf", "{vcf}", "--chromosomes", "chr1"], "chromosomes: found --chromosomes beside --vcf"),
    "vcf of another genome": (["--vcf", "{other}"], "vcf: found variants on chr7"),
    "vcf without header": (["--vcf", "{bare}"], "vcf: {folder}/bare.vcf cannot be read"),
    "vcf outside the windows": (["--vcf", "{vcf}", "--regions", "{bed}"], "vcf: found no window that holds variants"),
    "vcf, REF of another assembly": (["--vcf", "{wrong}"], "vcf: found REF"),
    "vcf, out a table": (["--vcf", "{vcf}", "--out", "e.csv"], "out: found e.csv"),
    "span backwards": (["--regions", "{bed}", "--span", "9-5"], "span: found 9-5"),
    "span a word": (["--regions", "{bed}", "--span", "all"], "span: found 'all'"),
    "span too long": (["--regions", "{bed}", "--span", "0-121"], "span: found 0-121"),
    "span negative": (["--regions", "{bed}", "--span=-5-9"], "span: found '-5-9'"),
    "span elsewhere": (["--regions", "{bed}", "--span", "chr2:1-9"], "span: found no window that touches chr2:1-9"),
    "span of the genome backwards": (["--regions", "{bed}", "--span", "chr1:9-1"], "span: found 'chr1:9-1'"),
}


@pytest.mark.parametrize("options, words", FAULTS.values(), ids=FAULTS)
def test_faults(files, command, options, words):
    folder, bases, vcf = files.folder, files.bases, files.vcf
    (folder / "bare.vcf").write_text(line(501, "A", "C"))
    b = bases[500]
    (folder / "wrong.vcf").write_text(HEADER + line(501, next(x for x in "ACGT" if x != b), b))
    names = {"vcf": vcf([100]), "other": vcf([500], "other.vcf", "chr7"), "bed": str(folder / "sites.bed"), "bare": str(folder / "bare.vcf"),
             "wrong": str(folder / "wrong.vcf"), "folder": str(folder)}
    options = [o.format(**names) for o in options]
    out = options.pop() if "--out" in options else "e.nc"
    code, _, err = command("effects", *[o for o in options if o != "--out"], out=out)
    assert code == 2 and err.count("\n") <= 2 and words.format(**names) in err and "Traceback" not in err


def test_the_table_of_variants_wants_their_effects(files, toy):
    folder, bases, vcf = files.folder, files.bases, files.vcf
    around = windows_around(read_variants(vcf([500])), 120, Genome(folder / "g.fa"))
    data = mutation_effects(toy, one_hot(bases[440:560]), ["X_TF1_None"], 2, 3, windows=["chr1:440-560"], variants=around.table)
    assert variant_table(data, around.table).columns.tolist()[:7] == ["chrom", "pos", "id", "ref", "alt", "window", "exposure"]
    with pytest.raises(InputError, match=r"^effects: found none at"):
        variant_table(data, around.table.assign(position=61))
    assert quiet


def test_all_of_ref_is_checked_and_a_variant_counts_once_whatever_its_chromosome_is_called(files):
    genome, bases = Genome(files.folder / "g.fa"), files.bases
    other = {b: "ACGT"[("ACGT".index(b) + 1) % 4] for b in "ACGT"}

    def made(*records):
        (files.folder / "b.vcf").write_text(HEADER + "".join(records))
        return str(files.folder / "b.vcf")

    right = line(501, bases[500:503], other[bases[500]] + bases[501:503])
    wrong = line(501, bases[500] + other[bases[501]], other[bases[500]] + other[bases[501]])  # the base that changes is right
    experiment = toy_experiment(toy_model(), files.folder, regions=None, exposures=("X_TF1_None",), draws=None, vcf=made(right))
    assert write_effects(experiment, files.folder / "e.nc", silent) == 1
    with pytest.raises(InputError, match=f"^vcf: found REF '{bases[500]}{other[bases[501]]}' at chr1:501, where the genome has '{bases[500:502]}'"):
        write_effects(replace(experiment, vcf=made(wrong)), files.folder / "e.nc", silent)
    both = read_variants(made(line(501, bases[500], other[bases[500]]), line(501, bases[500], other[bases[500]], "1")))
    placed = windows_around(both, 120, genome)
    assert len(both.table) == 2 and len(placed.table) == 1 and "1 repeated" in placed.notes[-1].sentence
    inside = place_variants(both, placed.windows)
    assert len(inside.table) == 1 and "1 repeated" in inside.notes[0].sentence
