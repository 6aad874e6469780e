"""Regions, sequence and sampling: properties, and the file formats people really have."""
import gzip
import hashlib
import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from conftest import api, quiet, toy_experiment
from deepmr import regions as R
from deepmr.core import Execution, InputError, cache_dir
from deepmr.experiment import plan

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


# --- files as their makers write them: the windows that are asked about -------------------------------------------------

PEAKS = ((200, 600, 30), (1000, 1400, 350), (2000, 2400, 10))  # start, end, offset of the summit
ON_SUMMITS, IN_THE_MIDDLE = ("chr1:170-290", "chr1:1290-1410", "chr1:1950-2070"), ("chr1:340-460", "chr1:1140-1260", "chr1:2140-2260")
FILES = {  # name of the file, what stands after the end for a summit
    IN_THE_MIDDLE: """
        x.bed: BED3 |
        x.bed: BED4 | p
        x.bed: BED5 | p 900
        x.bed: BED6 | p 900 +
        x.bed: BED6 and a count | p 0 + {k}
        x.bed: BED6 and a gene | p 0 + X_TF
        x.bed: BED8 | p 0 + {s} {e}
        x.bed: BED9 | p 0 + {s} {e} 0
        x.bed: BED9 and a count | p 0 + {s} {e} 0 {k}
        x.bed: BED12 | p 0 + {s} {e} 0 1 400 0
        x.bed: BED12 without thick | p 0 + 0 0 0 2 10,20, 0,380,
        x.broadPeak | p 0 . 9.1 8 7
        x.gappedPeak | p 0 . {s} {e} 0 1 400 0 9.1 8 7
        x.bed: IDR of broad peaks | p 0 . 9.1 8 7 1.30 0.90 {s} {e} 9 {s} {e} 9 1 2
        x.narrowPeak: no summit | p 0 . -1 213.8 -1 -1""",
    ON_SUMMITS: """
        x.narrowPeak | p 0 . -1 213.8 -1 {k}
        x.bed: narrowPeak | p 0 . -1 213.8 -1 {k}
        x.narrowPeak: and a column | p 0 . -1 213.8 -1 {k} 37
        x.narrowPeak: zeros | p 0 . 0 0 0 {k}
        x.narrowPeak: IDR | p 0 . -1 213.8 -1 {k} 2.46 2.73 {s} {e} 620.0 {k} {s} {e} 213.8 {k}"""}
ROWS = {name.strip(): (further.split(), list(expected)) for expected, lines in FILES.items() for line in lines.strip().splitlines()
        for name, _, further in [line.partition("|")]}


def planned(experiment):
    "Names of the windows of a plan by exposure, and its notes as text."
    p = api.plan(experiment, Execution(**quiet))
    return {e: [n for n, of in zip(p.windows.name, p.windows.exposures) if e in of] for e in p.exposures}, " / ".join(map(str, p.notes)), p


@pytest.mark.parametrize("case", ROWS)
def test_each_kind_of_file_is_centred_by_its_own_standard(case, toy, toy_files):
    further, expected = ROWS[case]
    lines = ("\t".join(["chr1", str(s), str(e), *(f.format(s=s, e=e, k=k) for f in further)]) for s, e, k in PEAKS)
    (path := toy_files / case.split(":")[0]).write_text("\n".join(lines) + "\n")
    names, notes, _ = planned(toy_experiment(toy, toy_files, regions=str(path)))
    assert names == {"X_TF1_None": expected, "X_TF2_None": expected} and "regions_serve_all" in notes
    assert ("columns_not_read" in notes) == ("gene" in case)


@pytest.mark.parametrize("rows, expected", [
    ([(200, 320, 5), (600, 720, 95)], ["chr1:145-265", "chr1:635-755"]),  # peaks of the model's own length
    ([(200, 320, 5), (600, 720, 95), (1000, 1101, 50)], ["chr1:145-265", "chr1:635-755", "chr1:990-1110"]),
    ([(200, 600, 80), (200, 600, 320)], ["chr1:220-340", "chr1:460-580"])])  # two summits in one peak
def test_summits_decide_whatever_the_length_of_the_peaks(rows, expected, toy, toy_files):
    (toy_files / "x.narrowPeak").write_text("".join(f"chr1\t{s}\t{e}\t.\t0\t.\t5\t-1\t-1\t{k}\n" for s, e, k in rows))
    assert planned(toy_experiment(toy, toy_files, regions=str(toy_files / "x.narrowPeak")))[0]["X_TF1_None"] == expected


def test_only_a_header_makes_columns_labels(toy, toy_files):
    def names(text, **more):
        (toy_files / "x.bed").write_text(text)
        return planned(toy_experiment(toy, toy_files, regions=str(toy_files / "x.bed"), **more))

    a, b, c = (f"chr1\t{s}\t{s + 120}\tp\t0\t+\t" for s in (200, 600, 1000))
    header = "#chrom\tstart\tend\tname\tscore\tstrand\tlabels\n"
    joined = header + f"{a}X_TF1_None, X_TF2_None\n{b} X_TF2_None\n{c}X_TF2_None,Z\n"
    single = header + f"{a}X_TF1_None\n{a}X_TF2_None\n{b}X_TF2_None\n{c}X_TF2_None\n"
    expected = {"X_TF1_None": ["chr1:200-320"], "X_TF2_None": ["chr1:200-320", "chr1:600-720", "chr1:1000-1120"]}
    assert names(joined)[0] == names(single)[0] == expected
    assert "unknown_labels" in names(joined)[1] and "(Z; in 1 of 3 lines)" in names(joined)[1] and "unknown" not in names(single)[1]
    assert names(single.replace(header, ""))[0] == expected and "labels_without_header" in names(single.replace(header, ""))[1]
    toy.labels = ("1", "3", "X_DNase_None")  # names that are numbers are labels under a header alone
    counts = f"{a}3\n{b}1\n{c}3\n"
    assert names(header + counts, exposures=("3",))[0] == {"3": ["chr1:200-320", "chr1:1000-1120"]}
    assert len(names(counts, exposures=("3",))[0]["3"]) == 3


def test_a_header_names_columns_with_or_without_a_hash(toy, toy_files):
    def names(text, name="x.bed"):
        (toy_files / name).write_text(text)
        return planned(toy_experiment(toy, toy_files, regions=str(toy_files / name)))[0]

    peaks = "".join(f"chr1\t{s}\t{e}\t7\t0\t.\t5\t-1\t3\t{k}\n" for s, e, k in PEAKS)  # a peak's name may be a number
    headers = ("#chrom\tstart\tend\tname", "chrom\tchromStart\tchromEnd\tpeak", "Chr\tStart\tEnd\tName")
    for header, tenth in itertools.product(headers, ("peak", "summit", "reads")):
        expected = IN_THE_MIDDLE if tenth == "reads" else ON_SUMMITS
        assert names(f"{header}\tscore\tstrand\tsignal\tp\tq\t{tenth}\n{peaks}")["X_TF1_None"] == list(expected), (header, tenth)
    labelled = "chrom\tstart\tend\tname\tscore\tstrand\t{}\nchr1\t200\t320\tp\t0\t+\tX_TF1_None\nchr1\t600\t720\tp\t0\t+\tX_TF2_None\n"
    for word in ("labels", "label", "Labels"):
        assert names(labelled.format(word)) == {"X_TF1_None": ["chr1:200-320"], "X_TF2_None": ["chr1:600-720"]}
    with pytest.raises(InputError, match=r"^x\.xls: found MACS' table, whose starts and summits count from 1, expected its \.narrowPeak"):
        names("# This file is generated by MACS\nchr\tstart\tend\tlength\tabs_summit\nchr1\t201\t600\t400\t231\n", "x.xls")


def test_files_that_deepmr_wrote_are_read_as_before(named, toy_files):
    api.run(named, toy_files / "run", Execution(workers=1, **quiet))
    frame = api.read_windows(toy_files / "run" / "windows.bed")  # a run's list has labels and no header
    assert set(frame.labels) == {("X_TF1_None", "X_TF2_None")} and len(frame) == 8
    api.write_windows(frame.assign(digest=["0" * 16] * 8), toy_files / "w.bed")
    again = api.read_windows(toy_files / "w.bed")
    assert list(again.labels) == list(frame.labels) and set(again.digest) == {"0" * 16}


def test_a_peak_without_a_whole_window_is_left_out_and_counted(toy, toy_files):
    good = (toy_files / "sites.bed").read_text()
    (toy_files / "x.bed").write_text(f"chr1\t10\t20\n{good}chr1\t2990\t3000\nchrUn_1\t500\t600\nchrUn_2\t500\t600\n")
    asked = toy_experiment(toy, toy_files, windows=20)
    names, notes, _ = planned(toy_experiment(toy, toy_files, regions=str(toy_files / "x.bed"), windows=20))
    assert names == planned(asked)[0]
    assert ("4 of 12: 1 begin before their chromosome; 1 go beyond the sequence; 2 lie on chrUn_1, chrUn_2, which the genome lacks") in notes
    (toy_files / "x.bed").write_text("chrUn_1\t500\t600\n")
    with pytest.raises(InputError, match=r"found no chromosome chrUn_1 in g\.fa"):
        planned(toy_experiment(toy, toy_files, regions=str(toy_files / "x.bed")))


@pytest.mark.parametrize("text, words", [
    (">chr1\nACGTACGT\nACGTACGTACGT\n>chr2\nACGT\n", "the last line of chr1 is longer"),
    (">chr1\r\nACGTACGT\r\nACGTACGTACGT", "the last line of chr1 is longer"),
    (">chr1\nACGTACGT\nACGTACGTA\n", "the last line of chr1 is longer"), (">chr1\nACGT ACGT\nACGTACGTA\n", "found ' '"),
    (">chr1\nACGT-ACGT\n", "found '-'"),
    (">chr1\nACGTACGü\n", "found 'Ü'"), (">chr1\n12 ACGTAC\n", "found ' ' and '1' and '2'")])
def test_a_fasta_whose_bases_stand_elsewhere_than_its_index_says_is_refused(tmp_path, text, words):
    (tmp_path / "x.fa").write_text(text, newline="")
    with pytest.raises(InputError, match=re.escape(words)):
        api.Genome(tmp_path / "x.fa").fetch("chr1", 0, 8)


@given(st.text("ACGT", min_size=1, max_size=40), st.integers(1, 12), st.sampled_from(["\n", "\r\n"]), st.booleans())
@settings(max_examples=60)
def test_even_lines_are_read_whatever_their_length(tmp_path_factory, dna, width, end, finished):
    path = tmp_path_factory.mktemp("fasta") / "x.fa"
    lines = [dna[i:i + width] for i in range(0, len(dna), width)]
    path.write_text(f">a{end}{end.join(lines)}{end}>chr1 x{end}{end.join(lines)}{end if finished else ''}", newline="")
    assert api.Genome(path).fetch("chr1", 0, len(dna)) == api.Genome(path).fetch("a", 0, len(dna)) == dna


@pytest.mark.parametrize("header, cut", [
    (">p1::chr1:{a}-{b}", "+"), (">chr1:{a}-{b}(+)", "+"), (">chr1:{a}-{b}(-)", "-"), (">HLA::p::chr1:{a}-{b}(-)", "-"), (">chr1:{a}-{b}(.)", "+")])
@given(data=st.data())
@settings(max_examples=15)
def test_what_bedtools_getfasta_writes_gives_the_plus_strand(tmp_path_factory, header, cut, data):
    folder = tmp_path_factory.mktemp("fasta")
    dna = data.draw(st.text("ACGTN", min_size=40, max_size=90))
    a = data.draw(st.integers(0, 20))
    piece = dna[a:] if cut == "+" else dna[a:][::-1].translate(str.maketrans("ACGT", "TGCA"))
    (folder / "s.fa").write_text(f"{header.format(a=a, b=len(dna))}\n{piece}\n")
    start = data.draw(st.integers(a, len(dna) - 1))
    end = data.draw(st.integers(start + 1, len(dna)))
    assert R.Genome(folder / "s.fa").fetch("chr1", start, end) == dna[start:end]


NAMES = {
    ">1 dna:chromosome chromosome:GRCh37:1:1:249250621:1 REF": "chr1 is 1", ">NC_000001.10 Homo sapiens": "chr1 is NC_000001.10 of hg19",
    ">CM000663.2": "of hg38",
     ">gi|568815597|ref|NC_000001.11|": "of hg38", ">GRCh38#0#chr1": "chr1 is GRCh38#0#chr1 of hg38", ">CHM13#0#chr1": "of CHM13"}


@pytest.mark.parametrize("header", NAMES)
def test_another_name_of_the_chromosome_gives_the_same_windows_and_a_note(header, toy, toy_files):
    _, none, right = planned(toy_experiment(toy, toy_files))
    (toy_files / "n.fa").write_text(header + "\n" + (toy_files / "g.fa").read_text().split("\n")[1] + "\n")
    _, notes, found = planned(toy_experiment(toy, toy_files, genome=str(toy_files / "n.fa")))
    assert (found.codes == right.codes).all() and list(found.windows.name) == list(right.windows.name)
    assert "chromosomes_matched" not in none and "chromosomes_matched" in notes and NAMES[header] in notes


@pytest.mark.parametrize("regions, fasta, message", [
    ("NC_000001.11", "NC_000001.10", "found NC_000001.10 of hg19 in n.fa, expected NC_000001.11 of hg38"),
    ("chrM", "MT", "found no chromosome chrM"),
    ("chr1", "HG002#1#chr1 HG002#2#chr1", "which may both be chr1, expected one"),
    ("chr1 chr2", "NC_000001.10 NC_000002.12", "chromosomes of hg19 and hg38")])
def test_names_that_could_mean_another_sequence_are_refused(regions, fasta, message, toy, toy_files):
    dna = (toy_files / "g.fa").read_text().split("\n")[1]
    (toy_files / "n.fa").write_text("".join(f">{name}\n{dna}\n" for name in fasta.split()))
    (toy_files / "x.bed").write_text("".join(f"{name}\t500\t620\n" for name in regions.split()))
    with pytest.raises(InputError, match=message):
        planned(toy_experiment(toy, toy_files, genome=str(toy_files / "n.fa"), regions=str(toy_files / "x.bed")))


def test_the_minus_strand_is_read_where_it_is_asked_for(toy, toy_files):
    (toy_files / "x.bed").write_text("chr1\t500\t620\ta\t0\t-\nchr1\t900\t1020\tb\t0\t+\nchr1\t1500\t1620\tb\t0\t.\n")
    _, ignored, plus = planned(toy_experiment(toy, toy_files, regions=str(toy_files / "x.bed")))
    names, notes, both = planned(toy_experiment(toy, toy_files, regions=str(toy_files / "x.bed"), stranded=True))
    assert "minus_strand_ignored" in ignored and "(1 of 3 regions)" in ignored and "strand" not in notes
    assert names["X_TF1_None"] == ["chr1:500-620(-)", "chr1:900-1020", "chr1:1500-1620"]
    assert (both.codes[0] == 3 - plus.codes[0][::-1]).all() and (both.codes[1:] == plus.codes[1:]).all()
    assert "no_minus_strand" in planned(toy_experiment(toy, toy_files, stranded=True))[1]


def test_windows_on_chromosomes_that_the_model_was_trained_on_are_said(toy, toy_files):
    def said(held_out, **more):
        toy.held_out = held_out
        return planned(toy_experiment(toy, toy_files, **more))[1]

    assert "trained_chromosomes" not in said(()) + said(("1",)) + said(("chr1", "chr8"))
    assert "3 of 3: chr1; kept out were chr8, chr9" in said(("chr8", "chr9"))
    assert R.read_windows().chrom.isin(api.load_model("hepg2").held_out).all()


def test_hg38_is_read_as_hg19_is_and_never_taken_for_it(hg19, toy, toy_files):
    sites = pd.read_csv(hg19 / "dhs_hg38.tsv.gz", sep="\t", nrows=200)
    segments = (f">{s.chrom}:{s.summit - 100}-{s.summit + 100}\n{s.sequence}\n" for s in sites.itertuples())
    (toy_files / "hg38.fa").write_text("".join(segments))
    (toy_files / "hg38.bed").write_text("".join(f"{s.chrom}\t{s.summit - 5}\t{s.summit + 5}\n" for s in sites.itertuples()))
    _, _, p = planned(toy_experiment(toy, toy_files, genome=str(toy_files / "hg38.fa"), regions=str(toy_files / "hg38.bed"), windows=5))
    known = {f"{s.chrom}:{s.summit - 60}-{s.summit + 60}": s.sequence[40:160] for s in sites.itertuples()}
    assert ["".join("ACGT"[i] for i in codes) for codes in p.codes] == [known[name] for name in p.windows.name]
    shipped = R.read_windows().iloc[:1]
    place = shipped.iloc[0]
    (toy_files / "other.fa").write_text(f">{place.chrom}:{place.start}-{place.end}\n{'ACGT' * 250}\n")
    with pytest.raises(InputError, match="differs from hg19's, expected the assembly hg19"):
        R.Sequences(toy_files / "other.fa").get(shipped)


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


def test_a_chromosome_under_two_names_gives_each_window_once(toy, toy_files):
    (toy_files / "two.bed").write_text("chr1\t500\t600\n1\t500\t600\nCHR1\t900\t1000\n")
    _, _, both = planned(toy_experiment(toy, toy_files, regions=str(toy_files / "two.bed")))
    assert list(both.windows.name) == ["chr1:490-610", "chr1:890-1010"]


HEAD = "#chrom\tstart\tend\tname\tscore\tstrand\t"


@pytest.mark.parametrize("header, line, words", [
    (HEAD + "summit\n", "chr1\t200\t600\tp\t0\t.\t330\n", "could count from the start of a peak or of its chromosome"),
    (HEAD + "summit\n", "chr1\t1000\t1400\tp\t0\t.\t1330\n", "found a summit 1330 bp into a peak of 400 bp"),
    (HEAD + "peak\n", "chr1\t200\t600\tp\t0\t.\t17\n", "could be summits or numbers of peaks")])
def test_summits_that_could_be_something_else_are_refused(tmp_path, header, line, words):
    (tmp_path / "a.bed").write_text(header + line)
    with pytest.raises(InputError, match=words):
        R.read_regions(tmp_path / "a.bed")


def test_a_summit_that_can_be_read_in_one_way_is(tmp_path):
    (tmp_path / "a.bed").write_text(HEAD + "summit\nchr1\t200\t600\tp\t0\t.\t30\n")
    assert R.read_regions(tmp_path / "a.bed").summit.tolist() == [230]
    (tmp_path / "a.bed").write_text(HEAD + "signal\nchr1\t200\t600\tp\t0\t.\t17\n")
    assert R.read_regions(tmp_path / "a.bed").summit.tolist() == [400]


@pytest.mark.parametrize("strand", ["-1", "\u2212", "minus", "chr1:1-2"])
def test_a_strand_that_is_none_is_refused_where_strands_count(tmp_path, toy, toy_files, strand):
    (toy_files / "s.bed").write_text(f"chr1\t200\t250\ta\t0\t{strand}\n", encoding="utf-8")
    experiment = toy_experiment(toy, toy_files, regions=str(toy_files / "s.bed"))
    assert len(plan(experiment, Execution(**quiet)).windows) == 1
    with pytest.raises(InputError, match=r"^stranded: found .* as the strand of a region"):
        plan(replace(experiment, stranded=True), Execution(**quiet))


def test_records_of_one_place_with_different_sequence_are_refused(tmp_path):
    (tmp_path / "g.fa").write_text(">a::chr1:100-108\nACGTACGT\n>b::chr1:100-108(-)\nACGTACGT\n>c::chr1:104-112\nTTTTACGT\n")
    genome = R.Genome(tmp_path / "g.fa")
    assert genome.fetch("chr1", 100, 104) == "ACGT" and genome.fetch("chr1", 108, 112) == "ACGT"
    with pytest.raises(InputError, match=r"found different sequence in the records .* and c::chr1:104-112 of g.fa, expected one"):
        genome.fetch("chr1", 105, 107)


def test_names_of_labels_in_a_column_that_is_not_read_are_told(toy, toy_files):
    (toy_files / "wide.bed").write_text("chr1\t200\t250\ta\t0\t+\tX_TF1_None\tx\ty\n")
    told = [n.code for n in plan(toy_experiment(toy, toy_files, regions=str(toy_files / "wide.bed")), Execution(**quiet)).notes]
    assert "columns_not_read" in told
