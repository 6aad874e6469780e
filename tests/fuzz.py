"""Random input for everything that reads a file or estimates a number: either an answer that holds, or an InputError.

`python tests/fuzz.py --cases 100000 --seed 0` does many cases and writes what it did to `benchmarks/results/fuzz.json`; a few hundred of each
target run with the tests (`tests/test_fuzz.py`).
"""
import argparse
import collections
import contextlib
import json
import platform
import signal
import struct
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pandas as pd
from hypothesis import HealthCheck, given, settings, strategies as st

from conftest import api, toy_model
from deepmr.core import Execution, InputError

ROOT = Path(__file__).resolve().parents[1]
TARGETS: dict[str, tuple[tuple, Callable[..., Any]]] = {}
SLOW = {"windows of a plan": 1000, "VCF": 1000, "raps": 200, "egger_test": 300, "meta_regression": 300, "ivw, robust": 800}  # cases at most, where one takes long
LONGEST = 20  # seconds of computing: what takes longer hangs


def target(name: str, *sources):
    "Register a check under a name; it is given a value of each strategy of hypothesis, or what a function makes of a random generator."
    def register(check):
        TARGETS[name] = sources, check
        return check
    return register


# --- files: anything, and things that are nearly right ----------------------------------------------------------------

FOLDER = Path()  # where files are written, set by `prepare`
FIELD = st.one_of(st.sampled_from(["chr1", "chr1", "0", "10", "250", "-1", "1e3", "1_0", "٣", "", " ", ".", "#", "track", "9" * 40, "nan", "\0", '"']),
                  st.integers(-5, 10**13).map(str), st.text(max_size=4))
LINES = st.lists(st.lists(FIELD, max_size=11).map("\t".join), max_size=6).map("\n".join)
TEXT = st.one_of(st.text(max_size=200), LINES)
BYTES = st.one_of(st.binary(max_size=300), TEXT.map(lambda t: t.encode("utf-8", "surrogatepass")))


def written(data: bytes, name: str) -> Path:
    path = FOLDER / name
    path.write_bytes(data)
    return path


@target("regions", BYTES)
def _(data):
    frame = api.read_regions(written(data, "x.bed"))
    assert len(frame) and (frame.start >= 0).all() and (frame.start < frame.end).all() and (frame.end < 10**12).all()
    assert (frame.start <= frame.summit).all() and (frame.summit <= frame.end).all() and frame.chrom.map(bool).all()
    assert list(api.read_windows(FOLDER / "x.bed").start) == list(frame.start)


COLUMN = st.sampled_from(["name", "X_TF1_None", "X_TF1_None, X_TF2_None", "0", "1", "255,0,0", "+", "-", ".", "", "-1", "2.5", "{s}", "{e}", "{s},", "40", "0" * 16, "x;y"])
PLACE = st.tuples(st.sampled_from(["chr1"] * 8 + ["1", "NC_000001.10", "NC_000001.11", "chrUn_1", "tracker", "GRCh38#0#chr1"]), st.integers(0, 640), st.integers(1, 300))
HEADERS = st.sampled_from(["", "", "track type=narrowPeak\n", "#chrom\tstart\tend\n", "#chrom\tstart\tend\tlabels\n", "#chrom\tstart\tend\tname\tscore\tstrand\tlabels\n",
                           "#chrom\tstart\tend\tname\tscore\tstrand\tlabels\tdigest\n", "#chr\tstart\tend\tpeak\tstrand\n", "chrom\tstart\tend\tname\tscore\tstrand\tlabels\n",
                           "Chr\tStart\tEnd\tname\tscore\tstrand\tsignal\tp\tq\tsummit\n"])
FURTHER = st.one_of(st.lists(COLUMN, max_size=17), st.sampled_from([["p", "0", "+"], ["p", "0", "-", "9", "-1", "4", "7"], ["p", "0", "+", "{s}", "{e}", "0", "1", "40", "0"]]))


@st.composite
def near_regions(draw):
    "A name, and the text of a file whose lines are nearly right: one kind of further columns, sometimes changed in a line."
    further, lines = draw(FURTHER), []
    for chrom, start, length in draw(st.lists(PLACE, min_size=1, max_size=6)):
        changed = [draw(COLUMN) if draw(st.integers(0, 30)) == 0 else f for f in further]
        lines.append("\t".join([chrom, str(start), str(start + length), *(f.format(s=start, e=start + length) for f in changed)]))
    return draw(st.sampled_from(["x.bed", "x.narrowPeak", "x.broadPeak", "x.bed.narrowPeak"])), draw(HEADERS) + "\n".join(lines) + "\n"


MODEL, DNA = toy_model(), "".join(np.random.default_rng(0).choice(list("ACGT"), 700))
FASTA_NAMES = ["chr1", "1", "NC_000001.10", "NC_000001.11 x", "gi|568815597|ref|NC_000001.11|", "GRCh38#0#chr1", "chr1:0-700", "p::chr1:0-700(+)", "chr1:0-700(-)", "chr2"]


@target("windows of a plan", near_regions(), st.lists(st.sampled_from(FASTA_NAMES), min_size=1, max_size=2, unique=True), st.booleans())
def _(file, names, stranded):
    turned = DNA[::-1].translate(str.maketrans("ACGT", "TGCA"))
    fasta = written("".join(f">{n}\n{turned if '(-)' in n else DNA}\n" for n in names).encode(), "plan.fa")
    asked = api.Experiment(model=MODEL, outcome="X_DNase_None", regions=str(written(file[1].encode(), file[0])), genome=str(fasta), draws=2, windows=3, stranded=stranded)
    p = api.plan(asked, Execution(announce=lambda line: None))
    assert p.windows.name.is_unique and (p.windows.start >= 0).all() and (p.windows.end <= 700).all() and all(n.sentence for n in p.notes)
    for w, codes in zip(p.windows.itertuples(), p.codes):
        here = "".join("ACGT"[i] for i in codes)
        assert here == (DNA[w.start:w.end] if w.strand == "+" else turned[700 - w.end:700 - w.start]) and w.name.endswith("(-)") == (w.strand == "-")
    assert stranded or set(p.windows.strand) == {"+"}
    assert pd.Series(p.exposures).isin(["X_TF1_None", "X_TF2_None"]).all()


FASTA = st.lists(st.one_of(st.sampled_from([">chr1", ">chr1:0-8", ">chr1:5-9", ">p::chr1:0-8(-)", ">1", ">NC_000001.10", ">a#0#chr1", ">chr1:0-8(+)", ">", ">chr1 x", ";c", ""]), st.text("ACGTNacgtn", max_size=12),
                           st.text(max_size=8)), max_size=7).flatmap(lambda x: st.sampled_from(["\n", "\r\n"]).map(lambda end: end.join(x)))


@target("FASTA", st.one_of(st.binary(max_size=120), FASTA.map(lambda t: t.encode("utf-8", "surrogatepass"))), st.integers(-2, 9), st.integers(-2, 12))
def _(data, start, end):
    bases = api.Genome(written(data, "x.fa")).fetch("chr1", start, end)
    assert start >= 0 and len(bases) == end - start and bases == bases.upper()


VCF_START = st.sampled_from(["##fileformat=VCFv4.2\n"] * 5 + ["##fileformat=VCFv4.2\n##contig=<ID=chr1,length=700>\n", ""])
VCF_COLUMNS = st.sampled_from(["#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"] * 6 + ["#CHROM\tPOS\tID\tREF\tALT\n", ""])
ALLELE = st.one_of(*[st.sampled_from("ACGT")] * 4, st.sampled_from(["a", "N", "*", ".", "<DEL>", "R", "A,C", "A,<NON_REF>", "G]chr1:5]", ""]), st.text("ACGT", min_size=1, max_size=3))
RECORD = st.tuples(st.sampled_from(["chr1"] * 6 + ["1", "NC_000001.10", "NC_000001.11", "chr2"]), st.one_of(st.integers(1, 700), st.integers(1, 700), st.integers(1, 700), st.integers(-1, 10**12)).map(str),
                   st.sampled_from([".", "rs1", "rs1", "x;y"]), ALLELE, ALLELE, st.just("."), st.sampled_from([".", "PASS"]), st.just(".")).map("\t".join)


@target("VCF", st.builds(lambda *parts: "".join(parts), VCF_START, VCF_COLUMNS, st.lists(RECORD, max_size=6).map("\n".join)).map(str.encode), st.booleans())
def _(data, alone):
    variants = api.read_variants(written(data, "x.vcf"))
    assert len(variants.table) and (variants.table.ref != variants.table.alt).all() and not variants.table.duplicated(["chrom", "position", "ref", "alt"]).any()
    placed = api.windows_around(variants, 120, api.Genome(written(f">chr1\n{DNA}\n".encode(), "v.fa")), alone)
    starts = dict(zip(placed.windows.name, placed.windows.start))
    assert all(starts[v.window] + v.position == v.place and 0 <= v.position < 120 for v in placed.table.itertuples()) and set(placed.windows.chrom) == {"chr1"}
    assert not alone or (placed.table.position == 60).all()


@target("sequence", st.one_of(st.text(max_size=9), st.lists(st.text("ACGTNacgtn", max_size=5), max_size=4)))
def _(text):
    x = api.one_hot(text)
    assert x.dtype == np.float32 and ((x == 0) | (x == 1)).all() and (x.sum(1) == 1).all()


LABEL = st.one_of(st.sampled_from(["CTCF", "DNase", "a#b", "#", "", "0", "7", "CTCF#", "##1", "CTCF#1", "²"]), st.text(max_size=4))


@target("labels", st.lists(LABEL, min_size=1, max_size=8), st.one_of(LABEL, LABEL.flatmap(lambda k: st.integers(-1, 9).map(lambda i: f"{k}#{i}")), st.integers(-2, 9)))
def _(labels, asked):
    model = api.Labelled()
    model.labels, model.name = tuple(labels), "m"
    if len(set(model.addresses)) == len(labels):
        assert [model.index(a) for a in model.addresses] == list(range(len(labels)))
    i = model.index(asked)
    assert 0 <= i < len(labels) and (asked in (labels[i], model.addresses[i], i) or str(asked) == str(i) or asked == f"{labels[i]}#1")


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["experiment", "exposures", "model", "x"]), inner, max_size=3), max_leaves=6)


@target("run.json", st.one_of(BYTES, JSON.map(lambda v: json.dumps(v).encode())))
def _(data):
    assert "exposures" in api.read_record(written(data, "run.json").parent)["experiment"]


HEADER = st.fixed_dictionaries({}, optional={
    "config": st.one_of(JSON, st.fixed_dictionaries({"n_labels": st.integers(-2, 10**14)}, optional={
        "channels": st.lists(st.integers(-1, 10**9), max_size=3), "kernels": st.lists(st.integers(-1, 200), max_size=3), "hidden": st.integers(-1, 10**12),
        "length": st.integers(-5, 10**9), "conv_dropout": st.lists(st.floats(), max_size=3)})).map(json.dumps),
    "labels": JSON.map(json.dumps), "length": st.one_of(st.text(max_size=3), st.integers().map(str)), "name": st.text(max_size=3),
    "calls": JSON.map(json.dumps), "doubts": JSON.map(json.dumps)})


def safetensors(header: dict[str, str], tensors: dict[str, Any], body: bytes) -> bytes:
    text = json.dumps({"__metadata__": header} | tensors).encode()
    return struct.pack("<Q", len(text)) + text + body


TENSORS = st.dictionaries(st.sampled_from(["w", "head.1.weight", "features.0.bias"]), st.fixed_dictionaries({
    "dtype": st.sampled_from(["F32", "I64", "F16", "X"]), "shape": st.lists(st.integers(0, 2**40), max_size=3),
    "data_offsets": st.sampled_from([[0, 8], [0, 0], [8, 0], [0, 2**60]])}), max_size=2)


@target("weights header", st.one_of(BYTES, st.builds(safetensors, HEADER, TENSORS, st.just(bytes(8)))))
def _(data):
    api.read_model(written(data, "x.safetensors"))


PICKLE = st.lists(st.one_of(st.sampled_from([b"\x80\x02", b"}", b"]", b"(", b"t", b"R", b".", b"c__builtin__\nopen\n", b"ctorch\nFloatStorage\n", b"K\x05", b"q\x00", b"h\x00",
                                             b"X\x01\x00\x00\x00w", b"s", b"u", b"Q", b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"I999999999999\n"]),
                            st.binary(max_size=3)), max_size=12).map(b"".join)


@target("PyTorch weights", st.one_of(BYTES, PICKLE))
def _(data):
    assert all(hasattr(v, "shape") for v in api.read_weights(written(data, "x.pth")).values())


KEYS = ["model", "exposures", "outcome", "genome", "regions", "peaks", "windows", "draws", "seed", "protocol", "engine", "name", "file", "url", "x"]
TOML_VALUE = st.one_of(st.sampled_from(['"hepg2"', '"x.fa"', "3", "-1", "0", "true", "[1, 2]", '["a", "a"]', "{file = \"g.fa\"}", "{url = \"http://x/y\", sha256 = \"0\"}", "nan", "inf",
                                        "1979-05-27", "''", '"', "[[", "1e400", "99999999999999999999999"]), st.text(max_size=4))
TOML = st.lists(st.one_of(st.tuples(st.sampled_from(KEYS), TOML_VALUE).map(" = ".join), st.sampled_from(KEYS).map("[{}]".format), st.text(max_size=6)), max_size=7).map("\n".join)


@target("TOML", st.one_of(BYTES, TOML.map(lambda t: t.encode("utf-8", "surrogatepass"))))
def _(data):
    api.read_experiment(written(data, "x.toml"))


# --- estimators -------------------------------------------------------------------------------------------------------

ODD = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 5e-324, 1e-308, 1e-200, 1e-160, 1e-30, 1e30, 1e160, 1e200, 1.7e308, 1.0, -1.0])


def numbers(rng: np.random.Generator, shape: tuple[int, ...], positive: bool = False) -> np.ndarray:
    "Ordinary numbers, with a share of those at the edges of arithmetic that differs from case to case: none, few, or half."
    v = rng.normal(size=shape) * 10.0 ** rng.choice([0, 0, 0, rng.integers(-300, 300)])
    odd = rng.random(shape) < rng.choice([0, 0, 0.1, 0.5])
    v = np.where(odd, rng.choice(ODD, shape), v)
    return np.abs(v) if positive else v


def summary(rng, low=0, high=10):
    n = int(rng.integers(low, high))
    return tuple(numbers(rng, (n,), positive) for positive in (False, True, False, True))


def moderate(rng):
    n = int(rng.integers(4, 10))
    return tuple(f(size=n) for f in (rng.normal, lambda size: rng.uniform(0.01, 5, size)) * 2)


EXPLAINED = {"too_few_mutations", "no_exposure_effect", "no_exposure_variation", "not_finite", "exposures_not_distinct"}


def holds(r: Any) -> None:
    "What any estimate owes: finite or explained, in order, a probability."
    values = np.array([r.estimate, r.se, r.ci_low, r.ci_high, r.p])
    assert np.isfinite(values).all() or EXPLAINED & set(r.codes), r
    if np.isfinite(values).all():
        assert r.se >= 0 and r.ci_low <= r.ci_high and 0 <= r.p <= 1, r


ESTIMATORS: dict[str, Callable[..., Any]] = {
    "ivw": api.ivw, "ivw, delta weights": lambda *d: api.ivw(*d, weights="delta", distribution="t"), "ivw, robust": lambda *d: api.ivw(*d, robust=True), "egger": api.egger,
    "weighted_median": lambda *d: api.weighted_median(*d, n_boot=5), "mode_based": lambda *d: api.mode_based(*d, n_boot=3), "divw": api.divw, "raps": api.raps,
    "gls": lambda *d: api.gls(*d, rho=np.eye(len(d[0])))}
for _name, _estimator in ESTIMATORS.items():
    target(_name, summary)(lambda d, f=_estimator: holds(f(*d)))


def close(a: float, b: float, tolerance: float = 1e-6) -> bool:
    return bool(np.isclose(a, b, rtol=tolerance, atol=1e-12, equal_nan=True))


@target("sign, order and units of estimates", lambda rng: (moderate(rng), rng))
def _(case):
    (bx, bxse, by, byse), rng = case
    name, c = rng.choice(["ivw", "ivw, delta weights", "egger", "divw", "gls"]), 2.0 ** rng.integers(-20, 21)
    f, order = ESTIMATORS[name], rng.permutation(len(bx))
    r = f(bx, bxse, by, byse)
    if not np.isfinite([r.estimate, r.se]).all():
        return
    for factor, other in ((-1, f(bx, bxse, -by, byse)), (1, f(-bx, bxse, -by, byse)), (c, f(bx, bxse, c * by, c * byse)), (1 / c, f(c * bx, c * bxse, by, byse)),
                          (1, f(bx[order], bxse[order], by[order], byse[order]))):
        scale = max(abs(r.estimate), r.se)
        assert abs(other.estimate / factor - r.estimate) <= 1e-6 * scale and close(other.se / abs(factor), r.se), (name, factor, r, other)


@target("steiger", lambda rng: (summary(rng), int(rng.integers(-1, 60))))
def _(case):
    d, n = case
    assert 0 <= api.steiger(*d, n_draws=n).p <= 1 or not np.isfinite(np.stack(d)).all()


@target("mvmr", lambda rng: [numbers(rng, shape, positive) for n, k in [rng.integers((0, 1), (10, 4))]
                             for shape, positive in (((n, k), False), ((n, k), True), ((n,), False), ((n,), True))])
def _(d):
    for r in api.mvmr(*d).values():
        holds(r)


def draws_of_two(rng):
    shape = tuple(rng.integers(0, 6, 2))
    return numbers(rng, shape), numbers(rng, shape)


for _name, _by_draws in {"mask_bootstrap": lambda x, y: api.mask_bootstrap(x, y, n_boot=5), "mask_bootstrap, equal weights": lambda x, y: api.mask_bootstrap(x, y, n_boot=5, weights="equal"),
                         "divw_draws": lambda x, y: api.divw_draws(x, y, n_boot=5), "slope_per_draw": api.slope_per_draw}.items():
    target(_name, draws_of_two)(lambda d, f=_by_draws: holds(f(*d)))


@target("slope_matrix", lambda rng: numbers(rng, tuple(rng.integers(1, (5, 6, 4)))))
def _(draws):
    r = api.slope_matrix(draws, n_boot=5)
    finite = np.isfinite(r.estimate) & np.isfinite(r.se)
    assert (r.se[finite] >= 0).all()


def windows(rng):
    n = int(rng.integers(0, 10))
    return tuple(numbers(rng, (n,), positive) for positive in (False, True, False))


def combined(r: Any) -> None:
    assert np.isfinite([r.estimate, r.se, r.ci_low, r.ci_high, r.p, r.tau2, r.i2]).all(), r
    assert r.se >= 0 and r.tau2 >= 0 and 0 <= r.i2 <= 1 and 0 <= r.p <= 1 and r.ci_low <= r.estimate <= r.ci_high, r


for _tau2 in ("DL", "REML", "ML", "PM", "EB", "HE", "HS", "SJ"):
    for _ci in ("HKSJ", "wald"):
        target(f"random_effects {_tau2} {_ci}", windows)(lambda d, t=_tau2, c=_ci: combined(api.random_effects(d[0], d[1], tau2=t, ci=c)))
target("fixed_effect", windows)(lambda d: combined(api.fixed_effect(d[0], d[1])))


@target("two_level", lambda rng: [numbers(rng, shape, positive) for n, k in [rng.integers(0, (10, 5))]
                                  for shape, positive in (((n,), False), ((n,), True), ((n, k), False))])
def _(d):
    combined(api.two_level(*d, shared_draws=True))
    combined(api.two_level(*d))


@target("meta_regression", windows)
def _(d):
    r = api.meta_regression(*d)
    assert np.isfinite(r.estimate).all() and (r.se >= 0).all() and r.tau2 >= 0


@target("egger_test", windows)
def _(d):
    assert 0 <= api.egger_test(d[0], d[1]).p <= 1


@target("subgroups", windows)
def _(d):
    for r in api.subgroups(d[0], d[1], np.sign(np.nan_to_num(d[2]))).groups.values():
        combined(r)


@target("sign, order and units of meta-analysis", lambda rng: (rng.normal(size=(n := int(rng.integers(2, 9)))), rng.uniform(0.01, 5, n), rng))
def _(case):
    y, s, rng = case
    tau2, c, order = rng.choice(["DL", "PM", "HE", "EB"]), 2.0 ** rng.integers(-20, 21), rng.permutation(len(y))
    r = api.random_effects(y, s, tau2=tau2)
    size = np.abs(y).max() + s.max()
    for factor, other in ((-1, api.random_effects(-y, s, tau2=tau2)), (c, api.random_effects(c * y, c * s, tau2=tau2)), (1, api.random_effects(y[order], s[order], tau2=tau2))):
        assert abs(other.estimate / factor - r.estimate) <= 1e-6 * size and abs(other.se / abs(factor) - r.se) <= 1e-6 * size, (factor, r, other)


# --- how it is run ----------------------------------------------------------------------------------------------------

class Hang(Exception):
    "A case took longer than LONGEST."


def _ring(*_):
    raise Hang(f"over {LONGEST} s")


def prepare(folder: Path) -> None:
    global FOLDER
    FOLDER = folder


@contextlib.contextmanager
def watched():
    "Warnings are errors, and so is what takes too long."
    signal.signal(signal.SIGPROF, _ring)  # counts the time of computing, whatever else the machine does
    signal.setitimer(signal.ITIMER_PROF, LONGEST)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # of torch, about a file
            yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def fuzz(name: str, cases: int, seed: int = 0) -> collections.Counter:
    "Cases of a target by how they ended: an answer, or an InputError. Raises what is neither, with the case that gave it."
    sources, check = TARGETS[name]
    ended: collections.Counter = collections.Counter()

    def one(values):
        try:
            with watched():
                check(*values)
            ended["answers"] += 1
        except InputError:
            ended["InputError"] += 1

    if isinstance(sources[0], st.SearchStrategy):
        options = settings(max_examples=cases, database=None, deadline=None, suppress_health_check=list(HealthCheck), derandomize=False,
                           phases=[hypothesis.Phase.generate])
        hypothesis.seed(seed)(options(given(st.tuples(*sources))(one)))()
    else:
        for case in range(cases):
            values = sources[0](np.random.default_rng((seed, case)))
            try:
                one((values,))
            except Exception as error:
                error.add_note(f"case {case} of seed {seed}: {values!r}")
                raise
    return ended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="targets whose name contains this")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "fuzz.json")
    options = parser.parse_args()
    import os
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        os.environ["DEEPMR_CACHE"] = str(Path(folder) / "cache")
        names = [k for k in TARGETS if options.only in k]
        left = {k: SLOW.get(k, options.cases // 200 if isinstance(TARGETS[k][0][0], st.SearchStrategy) else options.cases) for k in names}
        often = [k for k in names if left[k] == options.cases]
        each = -(-(options.cases - sum(v for k, v in left.items() if k not in often)) // max(1, len(often)))
        began, results, failed = time.perf_counter(), {}, 0
        for name in names:
            start = time.perf_counter()
            try:
                ended = dict(fuzz(name, min(left[name], each) if each > 0 else min(left[name], options.cases), options.seed))
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                ended, failed = {"failed": f"{type(error).__name__}: {error} {getattr(error, '__notes__', '')}"[:2000]}, failed + 1
            results[name] = ended | {"seconds": round(time.perf_counter() - start, 1)}
            print(name, results[name], flush=True)
    total = sum(v for r in results.values() for k, v in r.items() if k in ("answers", "InputError"))
    options.out.write_text(json.dumps({
        "command": f"python tests/fuzz.py --cases {options.cases} --seed {options.seed}", "cases": total, "failed": failed, "seconds": round(time.perf_counter() - began, 1),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in ("hypothesis", "numpy", "scipy", "pandas", "torch")}}, "targets": results}, indent=1) + "\n")
    print(f"{total} cases, {failed} targets failed: {options.out}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
