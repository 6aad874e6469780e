"""Regions, sequence and sampling: properties, and the file formats people really have."""
import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from deepmr import regions as R
from deepmr.core import InputError, cache_dir

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "deepmr" / "data"
interval = st.tuples(st.integers(0, 400), st.integers(1, 120)).map(lambda t: (t[0], t[0] + t[1]))


def frame(intervals, chrom="chr1"):
    return pd.DataFrame({"chrom": chrom, "start": [a for a, _ in intervals], "end": [b for _, b in intervals]},
                        columns=["chrom", "start", "end"]).astype({"start": "int64", "end": "int64"})


@given(st.lists(interval, min_size=1, max_size=12), st.lists(interval, max_size=20))
def test_overlap_is_the_number_of_bases_in_any_peak(windows, peaks):
    covered = {x for a, b in peaks for x in range(a, b)}
    expected = [len(covered & set(range(a, b))) for a, b in windows]
    assert R.overlap_bp(frame(windows), frame(peaks)).tolist() == expected
    assert R.overlap_bp(frame(windows), frame(peaks, "chr2")).tolist() == [0] * len(windows)


@given(st.text("ACGTacgt", min_size=1, max_size=60))
def test_one_hot_can_be_read_back(dna):
    x = R.one_hot(dna)
    assert x.shape == (1, 4, len(dna)) and x.dtype == np.float32
    assert "".join("ACGT"[i] for i in x[0].argmax(0)) == dna.upper() and (x.sum(1) == 1).all()


@given(st.text(min_size=1, max_size=20).filter(lambda s: set(s.upper()) - set("ACGT")))
def test_one_hot_refuses_what_is_not_dna(text):
    with pytest.raises(InputError, match="expected A, C, G or T"):
        R.one_hot(text)


@settings(max_examples=60)
@given(st.lists(interval, min_size=1, max_size=60, unique=True), st.integers(1, 10), st.integers(0, 5))
def test_sample_has_no_overlaps_is_maximal_and_ignores_row_order(windows, n, seed):
    rows = frame(windows)
    rows["name"] = [R.window_name(*w) for w in rows.itertuples(index=False)]
    rng = np.random.default_rng(seed)
    bound = rng.random(len(rows)) < 0.7
    drawn = R.sample_bound(rows, bound, n, seed)
    taken = list(zip(drawn.start, drawn.end))
    assert all(b <= c or d <= a for i, (a, b) in enumerate(taken) for c, d in taken[:i])
    order = rng.permutation(len(rows))
    pd.testing.assert_frame_equal(drawn, R.sample_bound(rows.iloc[order], bound[order], n, seed))
    if len(drawn) < n:  # then nothing more fits
        for a, b in rows[bound][["start", "end"]].itertuples(index=False):
            assert any(not (b <= c or d <= a) for c, d in taken)


def test_sampling_is_uniform_over_seeds():
    rows = R.tile(pd.DataFrame({"chrom": ["chr1"], "start": [0], "end": [20_000]}), 1000, 1000)
    rows["name"] = [R.window_name(*w) for w in rows.itertuples(index=False)]
    counts = pd.Series(0, rows.name)
    for seed in range(400):
        counts[R.sample_bound(rows, np.ones(20, bool), 5, seed).name] += 1
    assert abs(counts - 100).max() < 5 * np.sqrt(400 * 0.25 * 0.75)


@pytest.mark.parametrize("text, message", [
    ("chr1\t1\n", "line 1: found 2 column"), ("chr1\t5\t5\n", "expected 0 <= start < end"), ("", "found no region"),
    ("chr1\t1\t2\nchr1\t1.5\t9\n", "line 2: found '1.5'"), ("chr1\t-1\t2\n", "found start -1")])
def test_bad_bed(tmp_path, text, message):
    (tmp_path / "a.bed").write_text(text)
    with pytest.raises(InputError, match=message):
        R.read_regions(tmp_path / "a.bed")


def test_bed_dialects_give_the_same_regions(tmp_path):
    plain = "chr1\t10\t20\nchr2\t5\t9\n"
    for name, data in {"lf.bed": plain.encode(), "crlf.bed": plain.replace("\n", "\r\n").encode(),
                       "bom.bed": b"\xef\xbb\xbf" + plain.encode(), "spaces.bed": plain.replace("\t", " ").encode(),
                       "headed.bed": b"track name=x\n#c\nbrowser y\n" + plain.encode() + b"\n",
                       "zipped.bed.gz": gzip.compress(plain.encode()), "ünder score.bed": plain.encode()}.items():
        (tmp_path / name).write_bytes(data)
        got = R.read_regions(tmp_path / name)
        assert got[["chrom", "start", "end"]].values.tolist() == [["chr1", 10, 20], ["chr2", 5, 9]], name


@pytest.mark.parametrize("data", [gzip.compress(b"chr1\t1\t2\n", mtime=0)[:-6], b"\xff\xfe\x00\x00\x81"])
def test_damaged_bed_is_one_sentence(tmp_path, data):
    (tmp_path / "a.bed").write_bytes(data)
    with pytest.raises(InputError):
        R.read_regions(tmp_path / "a.bed")


@given(st.text("ACGTN", min_size=30, max_size=200), st.data())
@settings(max_examples=25)
def test_genome_and_segments_agree(tmp_path_factory, dna, data):
    folder = tmp_path_factory.mktemp("fasta")
    (folder / "g.fa").write_text(">chr1\n" + "\n".join(dna[i:i + 13] for i in range(0, len(dna), 13)) + "\n")
    cut = data.draw(st.integers(1, len(dna) - 1))
    (folder / "s.fa").write_text(f">chr1:0-{cut}\n{dna[:cut].lower()}\n>chr1:{cut}-{len(dna)}\n{dna[cut:]}\n")
    a = data.draw(st.integers(0, len(dna) - 1))
    b = data.draw(st.integers(a + 1, len(dna)))
    assert R.Genome(folder / "g.fa").fetch("chr1", a, b) == dna[a:b]
    if b <= cut or a >= cut:
        assert R.Genome(folder / "s.fa").fetch("chr1", a, b) == dna[a:b]
    else:
        with pytest.raises(InputError, match="not wholly inside"):
            R.Genome(folder / "s.fa").fetch("chr1", a, b)


def test_record_shorter_than_its_name_is_an_error(tmp_path):
    (tmp_path / "s.fa").write_text(">chr1:100-200\n" + "A" * 60 + "\n")
    with pytest.raises(InputError, match=r"found 60 bases in the record chr1:100-200 of s.fa, expected 100"):
        R.Genome(tmp_path / "s.fa")


@pytest.mark.parametrize("data", [b"", b"no fasta\n", gzip.compress(b">c\nACGT\n", mtime=0)[:-9], bytes(range(256))])
def test_files_that_are_no_fasta(tmp_path, data):
    (tmp_path / "x.fa").write_bytes(data)
    with pytest.raises(InputError, match=r"x.fa"):
        R.Genome(tmp_path / "x.fa").fetch("c", 0, 1)


def test_network_is_asked_once_and_answers_are_checked(monkeypatch):
    window = pd.DataFrame({"chrom": ["chr9"], "start": [4], "end": [8], "name": ["chr9:4-8"]})
    asked = []

    def fetch(dna):
        return lambda *where: asked.append(where) or dna

    assert R.Sequences(fetch=fetch("acgt"), announce=lambda _: None).get(window) == ["ACGT"]
    assert R.Sequences(fetch=fetch("TTTT"), announce=lambda _: None).get(window) == ["ACGT"] and len(asked) == 1
    store = cache_dir() / "hg19_windows.json"
    store.write_text(json.dumps({"chr9:4-8": "AC"}))
    with pytest.raises(InputError, match="found 2 bases in the cache"):
        R.Sequences().get(window)
    store.unlink()
    with pytest.raises(R.SequenceUnavailable, match="UCSC did not answer"):
        R.Sequences(announce=lambda _: None).get(window)
    with pytest.raises(InputError, match="differs from hg19's"):
        R.Sequences(fetch=fetch("ACGT"), announce=lambda _: None).get(window.assign(digest="0" * 16))


def test_the_files_that_ship_are_whole_and_fit_each_other():
    for line in (DATA / "hepg2_windows.sha256").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256((DATA / name).read_bytes()).hexdigest() == digest
    windows = R.read_windows()
    assert ((windows.end - windows.start) == 1000).all() and set(windows.chrom) == {"chr8", "chr9", "chr22"} and windows.name.is_unique
    sequences = R.Sequences(fetch=None).get(windows)  # nothing is fetched
    assert [hashlib.sha256(s.encode()).hexdigest()[:16] for s in sequences] == list(windows.digest)
    assert sum(f.stat().st_size for f in DATA.glob("hepg2_windows.*")) < 2_000_000


def test_the_rows_of_the_published_table_have_windows_but_for_three():
    windows = R.read_windows()
    rows = "HepG2_" + pd.read_csv(ROOT / "nbs" / "data" / "published_table1.csv").tf + "_None"
    n = {row: len(R.sample_bound(windows, [row in labels for labels in windows.labels], 25)) for row in rows}
    assert {row for row in rows if n[row] == 0} == {"HepG2_MYBL2_None", "HepG2_SP1_None", "HepG2_TCF12_None"}
    assert sum(v >= 10 for v in n.values()) == 17 and sum(v == 25 for v in n.values()) == 14
    pooled = {label for labels in windows.labels for label in labels if label.startswith("AnyCell_")}
    assert pooled >= {f"AnyCell_{tf}_None" for tf in ("BHLHE40", "NFIC", "SP1", "SP2", "TCF12")}
    assert {label.split("_")[0] for labels in windows.labels for label in labels} == {"HepG2", "AnyCell"}


def test_sequence_comes_from_the_package_first_and_only_for_hg19():
    ours = R.read_windows().iloc[[5]]
    inner = ours.assign(start=ours.start + 7, end=ours.start + 107, name="inner", digest=None)
    outer = ours.assign(start=ours.start - 100_000, end=ours.end + 100_000, name="outer", digest=None)
    assert R.Sequences(fetch=None).get(inner)[0] == R.Sequences(fetch=None).get(ours)[0][7:107]
    asked = []
    mixed = R.Sequences(fetch=lambda *where: asked.append(where) or "A" * 201_000, announce=lambda _: None)
    assert mixed.get(pd.concat([ours, outer]))[1] == "A" * 201_000 and len(asked) == 1
    assert mixed.source == "genomic windows, hg19 that ships with deepmr and fetched from UCSC"
    other = R.Sequences(assembly="hg38", fetch=lambda *where: "C" * 100, announce=lambda _: None)
    assert other.get(inner) == ["C" * 100]
    with pytest.raises(InputError, match="in the package that differs from hg19's"):
        R.Sequences().get(ours.assign(digest="0" * 16))


def test_shipped_windows_are_those_of_hg19_and_their_labels_those_of_the_peaks(hg19):
    windows = R.read_windows()
    genome = R.Genome(hg19 / "hg19_segments.fa.gz")
    for w in windows.sample(150, random_state=0).itertuples():
        assert R.sequence_digest(genome.fetch(w.chrom, w.start, w.end)) == w.digest
    own = pd.read_csv(hg19 / "tracks.tsv", sep="\t").query("cell == 'HepG2'")
    further = pd.read_csv(hg19 / "tracks_consensus.tsv", sep="\t").query("doubtful == 'no'")
    for t in pd.concat([own, further[~further.target.isin(own.target)].iloc[::40]]).itertuples():
        label = t.deepsea_label if isinstance(t.deepsea_label, str) else f"HepG2_{t.target}_None"
        bound = R.is_bound(windows, R.read_regions(hg19 / t.file)) & ~windows.chrom.isin(str(t.unlabelled_chromosomes).split(","))
        assert [label in labels for labels in windows.labels] == bound.tolist(), label


def test_known_factors_are_a_list_with_references_of_factors_that_have_a_track(hg19):
    known = pd.read_csv(ROOT / "nbs" / "data" / "known_factors.csv", comment="#")
    assert known.factor.is_unique and set(known["class"]) == {"opener", "activator", "repressor", "insulator"}
    assert known.reason.notna().all() and known.reference.str.contains(r" \d{4}, \D+ \d+:e?\d+$").all()
    assert known.doi.dropna().str.fullmatch(r"10\.\d{4,}/\S+").all()
    tracks = pd.concat([pd.read_csv(hg19 / f"tracks{which}.tsv", sep="\t").query("cell == 'HepG2'") for which in ("", "_consensus")])
    assert set(known.factor) <= set(tracks.target)
