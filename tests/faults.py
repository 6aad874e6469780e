"""Everything that can be wrong with what the program is given, as files, command lines and calls.

`tests/faults.csv` says how each ends: the exit code, the argument that is named, the kind of fault, and the words that must be quoted.
`test_faults.py` compares, also the sentence: write the table again after a message is reworded.

    python tests/faults.py [INPUT ...]        write the table again, or the rows of some inputs; read the difference before you keep it

The chapter `E2_inputs` shows the table.
"""
import argparse
import contextlib
import csv
import ctypes
import fcntl
import gzip
import io
import json
import os
import pickle
import re
import resource
import shutil
import struct
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

import deepmr.regions
from conftest import api, toy_model

Arguments = list[str]
FULL = "the disk is full"
FAULTS: dict[tuple[str, str], Callable[[Path], Arguments | Callable[[], object]]] = {}  # (input, fault) -> its maker
TABLE = Path(__file__).with_name("faults.csv")


def fault(of: str, *what: str):
    "Register the maker of a fault: it spoils a copy of the good files and returns the command line."
    def register(make):
        for name in what:
            FAULTS[of, name] = (lambda d, name=name: make(d, name)) if len(what) > 1 else make
        return make
    return register


def effects(d: Path, **change: str) -> Arguments:
    "The command line of `deepmr effects` on the good files, with other values for some options."
    options = {"model": "toy.safetensors", "exposures": "X_TF1_None", "outcome": "X_DNase_None", "regions": "sites.bed",
               "genome": "g.fa", "draws": 2, "workers": 1, "out": "effects.nc"} | change
    return ["effects", *(str(t) for k, v in options.items() for t in (f"--{k}", v))]


def table1(d: Path, **change: str) -> Arguments:
    "That of `deepmr table1`, of the run in the folder `run`."
    options = {"model": "toy.safetensors", "exposures": "X_TF1_None", "outcome": "X_DNase_None", "regions": "sites.bed",
               "genome": "g.fa", "draws": 5, "windows": 2, "workers": 1, "out": "run"} | change
    return ["table1", *(str(t) for k, v in options.items() for t in (f"--{k}", v))]


def bgzip(data: bytes, size: int = 1000) -> bytes:
    "Blocked gzip, as `bgzip` writes it (SAM specification, 4.1)."
    out = b""
    for i in [*range(0, len(data), size), len(data)]:
        part = data[i:i + size]
        squeezed = zlib.compressobj(wbits=-15)
        body = squeezed.compress(part) + squeezed.flush()
        out += (b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0" + struct.pack("<H", len(body) + 25) + body
                + struct.pack("<II", zlib.crc32(part), len(part)))
    return out


# --- any file -----------------------------------------------------------------------------------------------------------

USES: dict[str, tuple[str, Callable[[Path, str], Arguments]]] = {  # input -> a good file, and the command line that reads one of that name
    "BED": ("sites.bed", lambda d, path: effects(d, regions=path)),
    "FASTA": ("g.fa", lambda d, path: effects(d, genome=path)),
    "weights": ("toy.safetensors", lambda d, path: effects(d, model=path)),
    "PyTorch weights": ("toy.pth", lambda d, path: effects(d, model=f"torch:faulty:net:{path}")),
    "experiment": ("toy.toml", lambda d, path: ["fetch", path]),
}


def put(d: Path, name: str, what: str) -> str:
    "Spoil the place of a good file; the path to give to the program."
    suffix = Path(name).suffix
    match what:
        case "missing":
            return f"none{suffix}"
        case "a directory":
            (d / f"folder{suffix}").mkdir()
            return f"folder{suffix}"
        case "a pipe":
            os.mkfifo(d / f"pipe{suffix}")
            return f"pipe{suffix}"
        case "a link" | "a link to nothing":
            (d / f"link{suffix}").symlink_to(name if what == "a link" else "none")
            return f"link{suffix}"
        case "path with spaces and Unicode":
            (d / "überall da").mkdir()
            return str((d / name).rename(d / "überall da" / f"das da, 細胞{suffix}".replace(",", "" if "toy" in name else ",")).relative_to(d))
        case "a name of 300 letters":
            return "a" * 300 + suffix
        case "may not be read":
            (d / name).chmod(0)
    return name


for _of in USES:
    @fault(_of, "missing", "a directory", "a pipe", "a link", "a link to nothing", "path with spaces and Unicode", "a name of 300 letters",
           "may not be read")
    def _(d, what, of=_of):
        faulty_modules(d)
        name, use = USES[of]
        return use(d, put(d, name, what))


# --- regions ----------------------------------------------------------------------------------------------------------

BED = b"chr1\t200\t250\nchr1\t500\t550\n"
BED_BYTES = {
    "empty": b"", "nothing but comments": b"#chrom\tstart\tend\ntrack name=x\n", "blank lines": b"\n" + BED.replace(b"\n", b"\n\n"),
    "CRLF": BED.replace(b"\n", b"\r\n"), "CR alone": BED.replace(b"\n", b"\r"), "byte order mark": b"\xef\xbb\xbf" + BED,
    "UTF-16": BED.decode().encode("utf-16"), "no newline at the end": BED.rstrip(), "binary": bytes(range(256)) * 4,
    "gzip": gzip.compress(BED), "bgzip": bgzip(BED), "truncated gzip": gzip.compress(BED)[:-9],
    "gzip with a wrong checksum": gzip.compress(BED)[:-8] + b"\1\2\3\4" + gzip.compress(BED)[-4:],
    "gzip bomb, one line without end": gzip.compress(b"A" * 50_000_000), "gzip bomb, lines without end": gzip.compress(b"#\n" * 6_000_000),
    "spaces for tabs": BED.replace(b"\t", b"  "), "spaces after the end": BED.replace(b"\n", b"  \n"), "two columns": b"chr1\t200\n",
    "a header line": b"chrom\tstart\tend\n" + BED, "browser and track lines": b"browser position chr1\ntrack name=x\n" + BED,
    "unsorted": b"".join(reversed(BED.splitlines(True))), "duplicate": BED + BED, "coordinate with a decimal": b"chr1\t200.0\t250\n",
    "coordinate in powers of ten": b"chr1\t2e2\t250\n", "coordinate with a comma": b"chr1\t1,000\t1,100\n", "coordinate with an underscore": b"chr1\t1_000\t1_100\n",
    "coordinate in Arabic digits": "chr1\t٢٠٠\t٢٥٠\n".encode(), "coordinate with a plus": b"chr1\t+200\t250\n", "coordinate missing": b"chr1\t\t250\n",
    "negative start": b"chr1\t-1\t49\n", "reversed": b"chr1\t250\t200\n", "length zero": b"chr1\t200\t200\n", "huge coordinate": b"chr1\t1\t9" + b"9" * 30 + b"\n",
    "beyond the chromosome's end": b"chr1\t2990\t3100\n", "window before the chromosome's start": b"chr1\t10\t20\n",
    "chromosome 1 for chr1": BED.replace(b"chr1", b"1"), "chromosome CHR1 for chr1": BED.replace(b"chr1", b"CHR1"), "unknown chromosome": BED.replace(b"chr1", b"scaffold_7"),
    "chromosome missing": BED.replace(b"chr1", b""), "chromosome with a NUL": BED.replace(b"chr1", b"chr1\0"), "chromosome ../../etc": BED.replace(b"chr1", b"../../etc"),
    "GFF": b"##gff-version 3\nchr1\tx\tgene\t201\t250\t.\t+\t.\tID=1\n", "VCF": b"##fileformat=VCFv4.2\n#CHROM\tPOS\tID\nchr1\t201\trs1\tA\tG\t.\tPASS\t.\n",
    "BED5": BED.replace(b"\n", b"\tp\t9\n"), "BED8: thickStart, thickEnd": b"chr1\t200\t250\tp\t0\t+\t200\t250\nchr1\t500\t550\tp\t0\t+\t500\t500\n",
    "BED9: itemRgb": BED.replace(b"\n", b"\tp\t0\t+\t210\t240\t255,0,0\n"), "BED9 and a count": b"chr1\t200\t250\tp\t0\t+\t200\t250\t0\t7\nchr1\t500\t550\tp\t0\t+\t500\t550\t0\t9\n",
    "BED12": BED.replace(b"\n", b"\tp\t0\t+\t0\t0\t0\t2\t20,10,\t0,40,\n"), "BED6 and a count": BED.replace(b"\n", b"\tp\t0\t+\t3\n"), "BED6 and a gene": BED.replace(b"\n", b"\tp\t0\t+\tGATA1\n"),
    "BED6, a gene and its description": BED.replace(b"\n", b"\tp\t0\t+\tGATA1\tGATA binding protein 1\n"), "broadPeak": BED.replace(b"\n", b"\tp\t0\t.\t8.5\t4.1\t2\n"),
    "IDR of broad peaks (17 columns)": BED.replace(b"\n", b"\tp\t0\t.\t8.5\t4.1\t2\t1.30\t0.90\t200\t250\t8.1\t198\t251\t8.9\t1\n"),
    "gappedPeak": BED.replace(b"\n", b"\tp\t0\t.\t0\t0\t0\t1\t50\t0\t8.5\t4.1\t2\n"), "a contig named tracker": BED.replace(b"chr1", b"tracker"),
    "one of three before the chromosome's start": BED + b"chr1\t10\t20\n", "one of three beyond the chromosome's end": BED + b"chr1\t2990\t3000\n",
    "one of three on a contig that is not there": BED + b"chrUn_gl000220\t100\t200\n", "on the minus strand": BED.replace(b"\n", b"\tp\t0\t-\n"),
    "a summit from the peak's or the chromosome's start": b"#chrom\tstart\tend\tname\tscore\tstrand\tsummit\nchr1\t200\t500\tp\t0\t.\t250\n",
    "numbers in a column peak": b"#chrom\tstart\tend\tname\tscore\tstrand\tpeak\nchr1\t200\t250\tp\t0\t.\t7\n",
    "NC_000001.10 for chr1": BED.replace(b"chr1", b"NC_000001.10"), "chromosomes of two assemblies": b"NC_000001.10\t200\t250\nNC_000001.11\t500\t550\n",
    "chr1:200-250": b"chr1:200-250\n", "counted from 1": b"chr1\t201\t250\nchr1\t501\t550\n", "FASTA": b">chr1\nACGT\n",
}
NARROWPEAK = b"chr1\t200\t300\t.\t0\t.\t9\t-1\t4\t25\nchr1\t500\t600\t.\t0\t.\t9\t-1\t4\t25\n"
NARROWPEAK_BYTES = {
    "ten columns": NARROWPEAK, "summit -1 (none)": b"".join(BED.splitlines(True)).replace(b"\n", b"\t.\t0\t.\t9\t-1\t4\t-1\n"),
    "summit is no number": NARROWPEAK.replace(b"\t25\n", b"\tx\n"), "summit beyond the peak": NARROWPEAK.replace(b"\t25\n", b"\t101\n"),
    "summit missing": NARROWPEAK.replace(b"\t25\n", b"\t\n"), "truncated line": NARROWPEAK[:-12], "eleven columns": NARROWPEAK.replace(b"\n", b"\t1\n"),
    "twenty columns (IDR)": NARROWPEAK.replace(b"\n", b"\t2.46\t2.73\t200\t300\t620.0\t30\t200\t300\t213.8\t30\n"),
    "of the model's length": b"chr1\t200\t320\t.\t0\t.\t9\t-1\t4\t5\nchr1\t500\t620\t.\t0\t.\t9\t-1\t4\t95\n", "two summits in a peak": NARROWPEAK.split(b"\n")[0] + b"\n" + NARROWPEAK.replace(b"\t25\n", b"\t75\n"),
}
NAMELESS = {  # the same kinds under a name that does not tell them
    "ten columns, called .bed": NARROWPEAK, "zeros before the summit, called .bed": b"chr1\t200\t300\t.\t0\t.\t0\t0\t0\t25\n",
    "whole and other numbers in column 10, called .bed": NARROWPEAK + b"chr1\t800\t900\t.\t0\t.\t9\t-1\t4\t2.5\n",
    "zeros before the summit, with a track line": b"track type=narrowPeak\nchr1\t200\t300\t.\t0\t.\t0\t0\t0\t25\n",
}
PLACES = b"chr1\t200\t320\tw\t0\t+\t%s\nchr1\t500\t620\tw\t0\t+\t%s\n"
HEADER = b"#chrom\tstart\tend\tname\tscore\tstrand\tlabels\n"
LABELS = {
    "under a header": HEADER + PLACES % (b"X_TF1_None", b"X_TF2_None,X_TF1_None"), "without a header": PLACES % (b"X_TF1_None", b"X_TF2_None,X_TF1_None"),
    "with spaces": HEADER + PLACES % (b"X_TF2_None, X_TF1_None", b" X_TF1_None ,X_TF2_None"), "separated by semicolons": HEADER + PLACES % ((b"X_TF2_None;X_TF1_None",) * 2),
    "one line for each": HEADER + PLACES % (b"X_TF1_None", b"X_TF1_None") + PLACES % (b"X_TF2_None", b"X_TF2_None"), "some in lower case": HEADER + PLACES % (b"X_TF1_None", b"x_tf1_none"),
    "none of the model's": HEADER + PLACES % (b"Y_TF9_None", b"Y_TF8_None"), "none of the model's, without a header": PLACES % (b"Y_TF9_None", b"Y_TF8_None"),
    "a header of too few columns": HEADER.replace(b"\tscore", b"") + PLACES % (b"X_TF1_None", b"X_TF1_None"), "all dots": HEADER + PLACES % (b".", b"."),
    "in a column of their own": b"#chrom\tstart\tend\tlabels\nchr1\t200\t320\tX_TF1_None\n",
    "a digest that is none": HEADER.replace(b"\n", b"\tdigest\n") + b"chr1\t200\t320\tw\t0\t+\tX_TF1_None\tabc\n",
    "two digests for a place": HEADER.replace(b"\n", b"\tdigest\n") + b"".join(b"chr1\t200\t320\tw\t0\t+\tX_TF1_None\t" + d * 16 + b"\n" for d in (b"0", b"1")),
}


@fault("BED", *BED_BYTES)
def _(d, name):
    (d / "x.bed").write_bytes(BED_BYTES[name])
    return effects(d, regions=d / "x.bed")


@fault("narrowPeak", *NARROWPEAK_BYTES)
def _(d, name):
    (d / "x.narrowPeak").write_bytes(NARROWPEAK_BYTES[name])
    return effects(d, regions=d / "x.narrowPeak")


@fault("narrowPeak", *NAMELESS)
def _(d, name):
    (d / "x.bed").write_bytes(NAMELESS[name])
    return effects(d, regions=d / "x.bed")


@fault("labels", *LABELS)
def _(d, name):
    (d / "x.bed").write_bytes(LABELS[name])
    return table1(d, regions=d / "x.bed", draws=2, out=d / "new")


@fault("BED", "sequence that differs from the digest")
def _(d):
    (d / "x.bed").write_bytes(b"chr1\t200\t320\tw\t0\t+\tX_TF1_None\t" + b"0" * 16 + b"\n")
    return table1(d, regions=d / "x.bed", out=d / "new")


# --- genome -----------------------------------------------------------------------------------------------------------

def bases(d: Path) -> str:
    return (d / "g.fa").read_text().split("\n")[1]


FASTA_TEXT = {
    "lower case": lambda s: ">chr1\n" + s.lower(), "lines of 60": lambda s: ">chr1\n" + "\n".join(s[i:i + 60] for i in range(0, 3000, 60)) + "\n",
    "CRLF": lambda s: ">chr1\r\n" + "\r\n".join(s[i:i + 60] for i in range(0, 3000, 60)) + "\r\n",
    "byte order mark": lambda s: f"\ufeff>chr1\n{s}\n", "lines of unequal length": lambda s: f">chr1\n{s[:50]}\n{s[50:60]}\n{s[60:]}\n",
    "blank line within a record": lambda s: f">chr1\n{s[:100]}\n\n{s[100:200]}\n{s[200:]}\n", "spaces after the bases": lambda s: f">chr1\n{s}  \n",
    "spaces between the bases": lambda s: f">chr1\n{s[:260]} {s[260:]}\n",
    "empty": lambda s: "", "no header": lambda s: s, "header alone": lambda s: ">chr1\n", "header without a name": lambda s: f">\n{s}\n",
    "the same chromosome twice": lambda s: f">chr1\n{s}\n>chr1\n{s}\n", "description after the name": lambda s: f">chr1 human\n{s}\n",
    "N in a window": lambda s: f">chr1\n{s[:220]}N{s[221:]}\n", "IUPAC code in a window": lambda s: f">chr1\n{s[:220]}R{s[221:]}\n",
    "RNA": lambda s: f">chr1\n{s.replace('T', 'U')}\n", "a gap in a window": lambda s: f">chr1\n{s[:220]}-{s[221:]}\n",
    "N outside the windows": lambda s: f">chr1\n{s[:1500]}NNN{s[1503:]}\n", "protein": lambda s: ">chr1\n" + "MKVL" * 750 + "\n",
    "FASTQ": lambda s: f"@r\n{s[:60]}\n+\n{'I' * 60}\n", "chromosome 1 for chr1": lambda s: f">1\n{s}\n", "shorter than the regions": lambda s: f">chr1\n{s[:300]}\n",
    "segments (bedtools getfasta)": lambda s: f">chr1:100-700\n{s[100:700]}\n",
    "segments counted from 1 (samtools faidx)": lambda s: f">chr1:101-700\n{s[100:700]}\n", "segment shorter than its name says": lambda s: f">chr1:100-700\n{s[100:690]}\n",
    "segments that overlap": lambda s: f">chr1:100-400\n{s[100:400]}\n>chr1:300-700\n{s[300:700]}\n", "segment with reversed coordinates": lambda s: f">chr1:700-100\n{s[100:700]}\n",
    "binary": lambda s: "".join(map(chr, range(128))) * 9,
    "segments (getfasta -name)": lambda s: f">p1::chr1:100-400\n{s[100:400]}\n>p2::chr1:400-700\n{s[400:700]}\n",
    "segments (getfasta -s)": lambda s: f">chr1:100-400(+)\n{s[100:400]}\n>chr1:400-700(-)\n{s[400:700][::-1].translate(str.maketrans('ACGT', 'TGCA'))}\n",
    "segments (getfasta -nameOnly)": lambda s: f">p1\n{s[100:400]}\n>p2\n{s[400:700]}\n", "Ensembl's header": lambda s: f">1 dna:chromosome chromosome:GRCh37:1:1:249250621:1 REF\n{s}\n",
    "RefSeq's name (NC_000001.10)": lambda s: f">NC_000001.10 Homo sapiens\n{s}\n", "RefSeq's name in hg38 (NC_000001.11)": lambda s: f">NC_000001.11 Homo sapiens\n{s}\n",
    "RefSeq's names of both assemblies": lambda s: f">NC_000001.10\n{s}\n>NC_000001.11\n{s}\n", "NCBI's name (gi|)": lambda s: f">gi|224589800|ref|NC_000001.10|\n{s}\n",
    "a pangenome's name": lambda s: f">GRCh38#0#chr1\n{s}\n", "a pangenome's names of two haplotypes": lambda s: f">HG002#1#chr1\n{s}\n>HG002#2#chr1\n{s}\n",
    "HLA contigs beside it": lambda s: f">chr1\n{s}\n>HLA-A*01:01:01:01 HLA00001 3503 bp\n{s[:90]}\n", "a contig named as a segment": lambda s: f">chr1\n{s}\n>seq:1-100\n{s[:100]}\n",
}
FASTA_BYTES = {
    "gzip": gzip.compress, "bgzip": bgzip, "truncated gzip": lambda b: gzip.compress(b)[:-9], "gzip of something else": lambda b: gzip.compress(b"PNG"),
    "gzip bomb": lambda b: gzip.compress(b">chr1\n" + b"A" * 150_000_000), "UTF-16": lambda b: b.decode().encode("utf-16"),
    "2bit": lambda b: b"\x43\x27\x41\x1a" + b"\0" * 60,
}


@fault("FASTA", *FASTA_TEXT)
def _(d, name):
    (d / "x.fa").write_bytes(FASTA_TEXT[name](bases(d)).encode())
    return effects(d, genome=d / "x.fa")


@fault("FASTA", *FASTA_BYTES)
def _(d, name):
    (d / "x.fa").write_bytes(FASTA_BYTES[name]((d / "g.fa").read_bytes()))
    return effects(d, genome=d / "x.fa")


@fault("FASTA", "bgzip, called .gz")
def _(d):
    (d / "x.fa.gz").write_bytes(bgzip((d / "g.fa").read_bytes()))
    return effects(d, genome=d / "x.fa.gz")


@fault("FASTA", "an old index beside it")
def _(d):
    (d / "g.fa.fai").write_text("chr1\t7\t3\t4\t5\n")
    return effects(d)


@fault("FASTA", "changed since it was last read")
def _(d):
    right = (d / "g.fa").read_text()
    (d / "g.fa").write_text(">chr1\n" + "A" * 4000 + "\n")
    api.Genome(d / "g.fa").fetch("chr1", 0, 9)
    (d / "g.fa").write_text(right)
    return effects(d)


@fault("FASTA", "none, and no network")
def _(d):
    return [t for t in effects(d) if t not in ("--genome", "g.fa")]


@fault("FASTA", "the name hg38, and no network")
def _(d):
    return effects(d, genome="hg38")


@fault("FASTA", "NC_000001.10 for regions on NC_000001.11")
def _(d):
    (d / "x.fa").write_text(f">NC_000001.10\n{bases(d)}\n")
    (d / "x.bed").write_bytes(BED.replace(b"chr1", b"NC_000001.11"))
    return effects(d, genome=d / "x.fa", regions=d / "x.bed")


# --- models -----------------------------------------------------------------------------------------------------------

def spoiled(d: Path, change: Callable[[dict, dict], None]) -> Arguments:
    "The good weights with changed tensors or header."
    from safetensors import safe_open
    with safe_open(str(d / "toy.safetensors"), "pt") as f:
        header = dict(f.metadata())
    tensors = load_file(str(d / "toy.safetensors"))
    change(tensors, header)
    save_file(tensors, str(d / "x.safetensors"), header)
    return effects(d, model=d / "x.safetensors")


def config(**change):
    return lambda t, h: h.update(config=json.dumps(json.loads(h["config"]) | change))


WEIGHTS = {
    "no header of deepmr": lambda t, h: h.clear(), "configuration is no JSON": lambda t, h: h.update(config="{"),
    "configuration nested without end": lambda t, h: h.update(config="[" * 100_000), "configuration is a list": lambda t, h: h.update(config="[1]"),
    "configuration with an unknown option": config(colour=1), "configuration with a huge number of labels": config(n_labels=10**12),
    "configuration with a huge hidden layer": config(hidden=10**9), "configuration with a kernel longer than the window": config(kernels=[7, 300]),
    "configuration with negative sizes": config(channels=[-1, 16]), "configuration with text for a number": config(hidden="16"),
    "tensor missing": lambda t, h: t.pop("head.1.weight"), "tensor too many": lambda t, h: t.update(more=torch.zeros(1)),
    "tensor of another shape": lambda t, h: t.update({"head.1.bias": torch.zeros(5)}),
    "NaN": lambda t, h: t["features.0.weight"].fill_(float("nan")), "so large that predictions overflow": lambda t, h: t["features.4.weight"].fill_(-3e38), "infinite": lambda t, h: t["head.4.bias"].fill_(float("inf")),
    "in double precision": lambda t, h: t.update({k: v.double() for k, v in t.items()}), "whole numbers": lambda t, h: t.update({k: v.long() for k, v in t.items()}),
    "labels too few": lambda t, h: h.update(labels='["X_TF1_None"]'), "labels no list": lambda t, h: h.update(labels="3"),
    "labels no text": lambda t, h: h.update(labels="[1, [2], null]"), "label that reads as an address": lambda t, h: h.update(labels='["a", "a", "a#2"]'),
    "length zero": lambda t, h: h.update(length="0"), "length negative": lambda t, h: h.update(length="-5"), "length huge": lambda t, h: h.update(length="9" * 12),
    "length no number": lambda t, h: h.update(length="long"), "thresholds no numbers": lambda t, h: h.update(calls='{"X_TF1_None": "often"}'),
    "thresholds no dictionary": lambda t, h: h.update(calls="7"),
}
WEIGHT_FILES = {
    "empty": lambda b: b"", "truncated": lambda b: b[:-100], "truncated in the header": lambda b: b[:50], "text": lambda b: b"hello\n",
    "header longer than the file": lambda b: struct.pack("<Q", 2**60) + b[8:], "HTML (a failed download)": lambda b: b"<!DOCTYPE html><html></html>",
}


@fault("weights", *WEIGHTS)
def _(d, name):
    return spoiled(d, WEIGHTS[name])


@fault("weights", *WEIGHT_FILES)
def _(d, name):
    (d / "x.safetensors").write_bytes(WEIGHT_FILES[name]((d / "toy.safetensors").read_bytes()))
    return effects(d, model=d / "x.safetensors")


def faulty_modules(d: Path) -> None:
    "Python files beside the inputs, for models named torch:MODULE:FUNCTION."
    (d / "faulty.py").write_text("number = 3\ndef fails(): return 1 / 0\ndef gives_none(): pass\n"
                                 "def net():\n    from conftest import toy_model\n    return toy_model(seed=7)\n")
    (d / "faulty_syntax.py").write_text("def load(:\n")
    (d / "faulty_import.py").write_text("raise RuntimeError('no such thing')\n")


MODEL_NAMES = {
    "a directory": ".", "unknown name": "hepg3", "empty name": "", "only commas": ",,", "one of two is missing": "hepg2,none.safetensors",
    "module that is not there": "torch:no_such_module:load", "no function named": "torch:faulty", "function that is not there": "torch:faulty:nothing",
    "module with a syntax error": "torch:faulty_syntax:load", "module that fails": "torch:faulty_import:load", "function that fails": "torch:faulty:fails", "function that gives something else": "torch:faulty:gives_none",
    "function that is none": "torch:faulty:number", "DeepSEA from a file that is missing": "deepsea:none.pth",
    "Kipoi without --trust-code": "kipoi:DeepSEA/predict", "pickle of bpnet-lite without --trust-code": "bpnet:g.fa",
    "torch.export without --trust-code": "pt2:g.fa", "TorchScript without --trust-code": "torchscript:g.fa", "file of Keras that is missing": "keras:none.keras",
    "folder without a network of HuggingFace": "hf:.", "checkpoint of gReLU that is text": "grelu:g.fa",
}


@fault("model", *MODEL_NAMES)
def _(d, name):
    faulty_modules(d)
    return effects(d, model=MODEL_NAMES[name])


class Evil:
    "A pickle that makes a file when it is opened."

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def as_zip(files: dict[str, bytes], squeeze: bool = False) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if squeeze else zipfile.ZIP_STORED) as z:
        for name, data in files.items():
            z.writestr(name, data)
    return out.getvalue()


def saved(what, **options) -> bytes:
    torch.save(what, out := io.BytesIO(), **options)
    return out.getvalue()


def state() -> dict:
    return toy_model().module.state_dict()


def bomb(d) -> bytes:
    "A state dict of 40 MB of zeros in a squeezed archive of 40 kB."
    with zipfile.ZipFile(io.BytesIO(saved({"w": torch.zeros(10_000_000)}))) as z:
        return as_zip({name: z.read(name) for name in z.namelist()}, squeeze=True)


def claims(d) -> bytes:
    "An archive whose index says that a tensor of a few bytes is 4 GB."
    data = saved({"w": torch.zeros(4)})
    return data.replace(struct.pack("<II", 16, 16), struct.pack("<II", 16, 2**32 - 2))


PICKLES = {
    "state dict": lambda d: saved(state()), "state dict of the old format": lambda d: saved(state(), _use_new_zipfile_serialization=False),
    "checkpoint of Lightning": lambda d: saved({"state_dict": state(), "epoch": 3}), "pickle that runs code": lambda d: pickle.dumps(Evil(d / "ran")),
    "archive that runs code": lambda d: saved({"w": Evil(d / "ran")}), "old format that runs code": lambda d: saved({"w": Evil(d / "ran")}, _use_new_zipfile_serialization=False),
    "whole module": lambda d: saved(torch.nn.Linear(2, 2)), "list": lambda d: saved([1, 2]), "empty": lambda d: b"", "empty dictionary": lambda d: saved({}), "text": lambda d: b"hello\n",
    "truncated": lambda d: saved(state())[:-300], "zip of something else": lambda d: as_zip({"a.txt": b"hello"}), "zip bomb": bomb, "size claimed in the index": claims,
    "memory asked for in the pickle": lambda d: as_zip({"x/data.pkl": b"\x80\x02cbuiltins\nbytearray\nI" + b"9" * 15 + b"\n\x85R.", "x/version": b"3\n", "x/byteorder": b"little"}),
    "two networks": lambda d: saved({"net": state(), "average": state(), "epoch": 3}), "no network": lambda d: saved({"epoch": 3, "rate": 0.1}),
    "settings beside the network that would run code": lambda d: saved({"model_state_dict": state(), "settings": Evil("ran")}),
    "network in a wrapper": lambda d: saved({f"module.{k}": v for k, v in state().items()}),
    "other network": lambda d: saved(torch.nn.Linear(2, 2).state_dict()), "NaN": lambda d: saved({k: v * float("nan") for k, v in state().items()}),
}


@fault("PyTorch weights", *PICKLES)
def _(d, name):
    faulty_modules(d)
    (d / "x.pth").write_bytes(PICKLES[name](d))
    return effects(d, model=f"torch:faulty:net:{d / 'x.pth'}")


# --- a directory of Kipoi, trusted ------------------------------------------------------------------------------------

def stand_in(folder: Path, kind: str = "pytorch", **args: str) -> None:
    "A package `kipoi` that knows one model; its code makes a file."
    from types import ModuleType, SimpleNamespace
    shape = SimpleNamespace(inputs=SimpleNamespace(shape=(4, 120)), targets=SimpleNamespace(shape=(3,), column_labels=["a", "b", "c"]))
    description = SimpleNamespace(type=kind, defined_as=None, args=args, schema=shape, default_dataloader=".")
    source = SimpleNamespace(pull_model=lambda name: None, get_model_descr=lambda name: description,
                             get_model_dir=lambda name: str(folder), get_model_download_dir=lambda name: str(folder / "downloaded"))
    sys.modules["kipoi"] = package = ModuleType("kipoi")
    package.get_source = lambda name: source
    package.get_model = lambda *args, **options: (folder.parent / "ran").touch()


KIPOI: dict[str, tuple[dict, bytes]] = {  # what model.yaml says, and the file weights.pth
    "weights that run code": ({"weights": "weights.pth"}, pickle.dumps(Evil("ran"))), "weights that are no tensors": ({"weights": "weights.pth"}, b"hello\n"),
    "weights missing": ({"weights": "none.pth"}, b""), "weights outside of the directory": ({"weights": "../outside"}, b""),
    "no weights named": ({"module_file": "model.py"}, b""), "a model of Keras": ({"kind": "keras", "weights": "weights.pth"}, b""),
}


@fault("Kipoi directory", *KIPOI)
def _(d, name):
    args, weights = KIPOI[name]
    (d / "published").mkdir()
    (d / "published" / "model.yaml").write_text("see stand_in")
    (d / "published" / "weights.pth").write_bytes(weights)
    (d / "outside").write_text("root:x:0:0\n")
    stand_in(d / "published", **args)
    return [*effects(d, model="kipoi-dir:published"), "--trust-code"]


@fault("Kipoi directory", "missing", "a file", "no model.yaml", "no --trust-code", "the package kipoi is not there")
def _(d, name):
    (d / "published").mkdir()
    if name not in ("missing", "no model.yaml"):
        (d / "published" / "model.yaml").write_text("defined_as: model.Evil\n")
    (d / "published" / "model.py").write_text(f"open({str(d / 'ran')!r}, 'w')\n")
    sys.modules["kipoi"] = None
    where = {"missing": "none", "a file": "g.fa"}.get(name, "published")
    return [*effects(d, model=f"kipoi-dir:{where}"), *(["--trust-code"] if name != "no --trust-code" else [])]


# --- options ----------------------------------------------------------------------------------------------------------

OPTIONS: dict[str, Callable[[Path], Arguments]] = {
    "unknown command": lambda d: ["table2"], "unknown option": lambda d: [*effects(d), "--colour", "red"], "a value is missing": lambda d: [*effects(d), "--seed"],
    "--regions missing": lambda d: ["effects", "--exposures", "a"], "--exposures empty": lambda d: effects(d, exposures=""), "--exposures only commas": lambda d: effects(d, exposures=" , "),
    "--exposures unknown": lambda d: effects(d, exposures="X_TF3_None"), "--exposures in lower case": lambda d: effects(d, exposures="x_tf1_none"),
    "--exposures twice": lambda d: effects(d, exposures="X_TF1_None,X_TF1_None"), "--exposures number too large": lambda d: effects(d, exposures="7"),
    "--exposures negative number": lambda d: effects(d, exposures="-1"), "--exposures address too large": lambda d: effects(d, exposures="X_TF1_None#2"),
    "--exposures is the outcome": lambda d: effects(d, exposures="X_DNase_None"), "--outcome unknown": lambda d: effects(d, outcome="DNase"), "--outcome empty": lambda d: effects(d, outcome=""),
    "--draws 0": lambda d: effects(d, draws=0), "--draws 1": lambda d: effects(d, draws=1), "--draws -5": lambda d: effects(d, draws=-5), "--draws many": lambda d: effects(d, draws="many"),
    "--draws 2.5": lambda d: effects(d, draws="2.5"), "--draws 10^15": lambda d: effects(d, draws=10**15), "--seed -1": lambda d: effects(d, seed=-1), "--seed 2^80": lambda d: effects(d, seed=2**80),
    "--engine warp": lambda d: effects(d, engine="warp"), "--device gpu9": lambda d: effects(d, device="gpu9"), "--workers 0": lambda d: effects(d, workers=0),
    "--workers -2": lambda d: effects(d, workers=-2), "--windows 0": lambda d: table1(d, windows=0, out="new"),
    "--windows -1": lambda d: table1(d, windows=-1, out="new"), "--regions empty": lambda d: effects(d, regions=""),
    "--stranded, and no minus strand": lambda d: [*effects(d), "--stranded"], "--seed twice": lambda d: [*effects(d), "--seed", "0", "--seed", "1"],
    "--chromosomes not in the regions": lambda d: [*effects(d), "--chromosomes", "chr2"], "--chromosomes not all in the regions": lambda d: [*effects(d), "--chromosomes", "chr1,chr2"],
    "--peaks beside --regions": lambda d: [*table1(d, out="new"), "--peaks", "X_TF1_None=sites.bed"], "--trust-code, and no model of Kipoi": lambda d: [*effects(d), "--trust-code"],
    "--genome empty": lambda d: effects(d, genome=""), "--protocol best": lambda d: table1(d, protocol="best", out="new"),
    "--protocol empty": lambda d: table1(d, protocol="", out="new"), "--scheduler nobody": lambda d: table1(d, scheduler="nobody", out="new"),
    "--stranded, and a strand -1": lambda d: ((d / "s.bed").write_text("chr1\t200\t250\tp\t0\t-1\n"), [*effects(d, regions="s.bed"), "--stranded"])[1],
    "--scheduler that does not answer": lambda d: table1(d, scheduler="tcp://127.0.0.1:9", out="new"),
    "table1: --exposures unknown": lambda d: table1(d, exposures="X_TF3_None", out="new"),
    "table1: --exposures twice": lambda d: table1(d, exposures="X_TF1_None,X_TF1_None", out="new"),
    "table1: --exposures is the outcome": lambda d: table1(d, exposures="X_DNase_None", out="new"),
    "status: no run named": lambda d: ["status"], "run: no file named": lambda d: ["run"],
    "labels: --cell that is not there": lambda d: ["labels", str(d / "toy.safetensors"), "--cell", "Y"],
    "matrix: --correction none": lambda d: ["matrix", str(d / "run"), "--correction", "none"],
    "simulate: --scenario unknown": lambda d: ["simulate", "--scenario", "other", "--out", "s"],
    "simulate: --rounds 0": lambda d: ["simulate", "--rounds", "0", "--out", "s"],
    "simulate: --start after the last": lambda d: ["simulate", "--rounds", "3", "--start", "3", "--out", "s"],
    "simulate: --seed -1": lambda d: ["simulate", "--rounds", "1", "--seed", "-1", "--out", "s"],
    "simulate: --workers 0": lambda d: ["simulate", "--rounds", "1", "--workers", "0", "--out", "s"],
    "train: --epochs 0": lambda d: ["train", "--data", "data", "--epochs", "0", "--out", "t"],
    "train: --members 0": lambda d: ["train", "--data", "data", "--members", "0", "--out", "t"],
    "train: --threads 0": lambda d: ["train", "--data", "data", "--cell", "X", "--threads", "0", "--out", "t"],
    "train: --seed -1": lambda d: ["train", "--data", "data", "--cell", "X", "--seed", "-1", "--out", "t"],
}
for _name, _make in OPTIONS.items():
    FAULTS["option", _name] = _make


WRITERS: dict[str, Callable[[str], Arguments]] = {  # the command lines that write to a place
    "effects": lambda out: effects(Path(), out=f"{out}/effects.nc"), "table1": lambda out: table1(Path(), out=f"{out}/new"),
    "run": lambda out: ["run", "toy.toml", "--out", f"{out}/new", "--workers", "1"], "matrix": lambda out: ["matrix", f"{out}/run"],
    "report": lambda out: ["report", f"{out}/run"], "windows": lambda out: ["windows", "--data", "data", "--cell", "X", "--out", f"{out}/w.bed"],
    "simulate": lambda out: ["simulate", "--rounds", "1", "--scenario", "none", "--workers", "1", "--out", f"{out}/s"],
    "train": lambda out: ["train", "--data", "data", "--cell", "X", "--out", f"{out}/t"],
}


def out_is(command: str, what: str) -> Callable[[Path], Arguments]:
    "A place that a command is to write to, spoilt."
    def make(d):
        (d / "out").mkdir()
        (d / "run").rename(d / "out" / "run")
        if what == "may not be written":
            for folder in ("out", "out/run"):
                (d / folder).chmod(0o555)
        return WRITERS[command]("g.fa" if what == "a file where a folder should be" else "out")
    return make


for _command in WRITERS:
    for _what in ("may not be written", FULL):
        FAULTS["output", f"{_command}: {_what}"] = out_is(_command, _what)
    if _command not in ("matrix", "report"):
        FAULTS["output", f"{_command}: a file where a folder should be"] = out_is(_command, "a file where a folder should be")
del FAULTS["output", f"simulate: {FULL}"], FAULTS["output", f"train: {FULL}"]  # they would work for minutes before they write


@fault("output", "effects: in no directory", "effects: a directory", "effects: empty", "effects: the cache may not be written",
       "effects: the cache is a file")
def _(d, name):
    (d / "closed").mkdir(0o555)
    if "cache" in name:
        os.environ["DEEPMR_CACHE"] = str(d / "closed" / "cache" if "written" in name else d / "g.fa")
    return effects(d, out={"effects: in no directory": "no/e.nc", "effects: a directory": ".", "effects: empty": ""}.get(name, "effects.nc"))


@fault("output", "effects: a link, which is replaced, and not what it points to")
def _(d):
    (d / "precious").write_text("")
    (d / "effects.nc").symlink_to("precious")
    return effects(d)


# --- run directories --------------------------------------------------------------------------------------------------

WINDOW = "chr1_165-285"


def record(d: Path, **change) -> None:
    path = d / "run" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def rewrite(path: str, data: bytes | None):
    "Put other bytes into a file of the run, or remove it."
    def change(d):
        file = d / "run" / path
        file.unlink() if data is None else file.write_bytes(data)
    return change


def cut(path: str):
    return lambda d: (d / "run" / path).write_bytes((d / "run" / path).read_bytes()[:-200])


def moved(path: str):
    "Put a link to a place outside the run in the place of a file or folder of it."
    def change(d):
        (d / "run" / path).rename(d / "outside")
        (d / "run" / path).symlink_to(d / "outside")
    return change


RUNS = {
    "run.json missing": rewrite("run.json", None), "run.json empty": rewrite("run.json", b""), "run.json truncated": cut("run.json"), "run.json is a list": rewrite("run.json", b"[]"),
    "run.json nested without end": rewrite("run.json", b"[" * 100_000), "run.json is no text": rewrite("run.json", b"\xff\xfe\0\1"),
    "run.json without exposures": lambda d: record(d, experiment={}), "run.json with a number for the exposures": lambda d: record(d, experiment={"exposures": 5}),
    "window missing": rewrite(f"local/{WINDOW}.json", None), "window empty": rewrite(f"local/{WINDOW}.json", b""), "window truncated": cut(f"local/{WINDOW}.json"),
    "window is a list of numbers": rewrite(f"local/{WINDOW}.json", b"[1, 2]"), "effects missing": rewrite(f"effects/{WINDOW}.nc", None), "effects empty": rewrite(f"effects/{WINDOW}.nc", b""),
    "effects truncated": cut(f"effects/{WINDOW}.nc"), "effects are text": rewrite(f"effects/{WINDOW}.nc", b"hello"), "windows.bed missing": rewrite("windows.bed", None),
    "windows.bed empty": rewrite("windows.bed", b""), "windows.bed is binary": rewrite("windows.bed", bytes(range(256))),
    "window ../../etc/passwd in windows.bed": rewrite("windows.bed", b"chr1\t165\t285\t../../etc/passwd\t0\t+\tX_TF1_None\n"),
    "run.json a link out of the run": moved("run.json"), "local a link out of the run": moved("local"), "effects a link out of the run": moved("effects"),
    "figures a link out of the run": moved("figures"), "window a link out of the run": moved(f"local/{WINDOW}.json"),
}


def on_run(command: str, change):
    def make(d):
        change(d)
        return table1(d) if command == "table1" else [command, str(d / "run")]
    return make


for _command in ("status", "matrix", "report", "table1"):
    for _name, _change in RUNS.items():
        if _command != "report" or _name not in ("effects empty", "effects are text"):  # as "effects truncated", and drawing takes long
            FAULTS[f"run, deepmr {_command}", _name] = on_run(_command, _change)
    FAULTS[f"run, deepmr {_command}", "missing" if _command != "table1" else "a file"] = (
        lambda d, c=_command: table1(d, out=d / "g.fa") if c == "table1" else [c, str(d / "none")])
    FAULTS[f"run, deepmr {_command}", "a directory of something else"] = (
        lambda d, c=_command: table1(d, out=d) if c == "table1" else [c, str(d)])

CONTINUED = {"another seed": dict(seed=3), "other draws": dict(draws=6), "other windows": dict(windows=1), "another protocol": dict(protocol="paper"),
             "another genome": dict(genome="other.fa"), "another model": dict(model="x.safetensors")}


@fault("run, deepmr table1", *(f"holds {name}" for name in CONTINUED))
def _(d, name):
    spoiled(d, lambda t, h: t["head.4.bias"].fill_(0.5))
    (d / "other.fa").write_text(">chr1\n" + "ACGT" * 750 + "\n")
    return table1(d, **CONTINUED[name.removeprefix("holds ")])


@fault("run, deepmr table1", "in use by another process")
def _(d):
    held = open(d / "run" / "run.json")  # noqa: SIM115 closed by `elsewhere`
    fcntl.flock(held, fcntl.LOCK_EX)
    HELD.append(held)
    return table1(d)


HELD: list = []  # files kept open


# --- experiments --------------------------------------------------------------------------------------------------------

TOML = """model = "toy.safetensors"
outcome = "X_DNase_None"
chromosomes = ["chr1"]
windows = 2
draws = 5
genome = {file = "g.fa"}
peaks = {X_TF1_None = {file = "wide.bed"}}
"""


def edited(old: str, new: str) -> bytes:
    "The good experiment with other words."
    assert old in TOML
    return TOML.replace(old, new).encode()


TOMLS = {
    "empty": b"", "truncated": TOML.encode()[:-20], "UTF-16": TOML.encode("utf-16"),
    "binary": bytes(range(256)), "JSON": b'{"model": "hepg2"}', "nested without end": b"a = " + b"[" * 100_000,
    "a key twice": TOML.encode() + b"\nwindows = 3\n", "unknown key": TOML.encode() + b"colour = 1\n", "misspelt key": edited("outcome", "outcom"),
    "no outcome": edited('outcome = "X_DNase_None"\n', ""), "outcome unknown": edited("X_DNase_None", "X_DNAse"), "outcome empty": edited("X_DNase_None", ""),
    "model a number": edited('"toy.safetensors"', "3"), "model missing": edited("toy", "none"), "windows text": edited("windows = 2", 'windows = "2"'),
    "windows 0": edited("windows = 2", "windows = 0"), "windows true": edited("windows = 2", "windows = true"), "draws 1": edited("draws = 5", "draws = 1"),
    "draws 2.5": edited("draws = 5", "draws = 2.5"), "draws 10^15": edited("draws = 5", "draws = 1_000_000_000_000_000"), "draws nan": edited("draws = 5", "draws = nan"),
    "seed negative": edited("draws", "seed = -1\ndraws"), "seed 2^80": edited("draws", f"seed = {2**80}\ndraws"),
    "protocol unknown": edited("draws", 'protocols = ["best"]\ndraws'), "protocols no list": edited("draws", 'protocols = "default"\ndraws'),
    "exposures beside peaks": edited("draws", 'exposures = ["X_TF2_None"]\ndraws'), "no chromosomes": edited('chromosomes = ["chr1"]\n', ""),
    "chromosome unknown": edited('"chr1"', '"7"'), "chromosome 1 for chr1": edited('"chr1"', '"1"'), "no genome": edited('genome = {file = "g.fa"}\n', ""), "genome a string": edited('{file = "g.fa"}', '"g.fa"'),
    "genome missing": edited("g.fa", "none.fa"), "genome neither file nor url": edited('{file = "g.fa"}', "{}"),
    "genome both file and url": edited('"g.fa"', '"g.fa", url = "http://x/y"'), "url of another scheme": edited('file = "g.fa"', 'url = "file:///etc/passwd"'),
    "url that cannot be had": edited('file = "g.fa"', 'url = "http://127.0.0.1:9/../../g.fa"'), "md5 too short": edited('"g.fa"', '"g.fa", md5 = "123"'),
    "md5 of another file": edited('"g.fa"', f'"g.fa", md5 = "{"0" * 32}"'), "peaks of a label that the model does not have": edited("X_TF1", "X_TF9"),
    "peaks missing": edited("wide", "none"), "peaks nowhere on the chromosomes": edited("wide", "elsewhere"), "peaks empty": edited("wide", "empty"),
    "peaks binary": edited("wide.bed", "toy.safetensors"),
}


@fault("experiment", *TOMLS)
def _(d, name):
    (d / "x.toml").write_bytes(TOMLS[name])
    (d / "elsewhere.bed").write_bytes(b"chr2\t200\t800\n")
    (d / "empty.bed").write_bytes(b"")
    return ["run", "x.toml", "--out", "new", "--workers", "1"]


@fault("experiment", "CRLF", "CR alone", "byte order mark", "comments and blank lines", "an outer path (../)")
def _(d, name):
    text = {"CRLF": TOML.replace("\n", "\r\n"), "CR alone": TOML.replace("\n", "\r"), "byte order mark": "\ufeff" + TOML,
            "comments and blank lines": "# one\n\n" + TOML, "an outer path (../)": TOML.replace("g.fa", "../outer.fa")}[name]
    (d.parent / "outer.fa").write_bytes((d / "g.fa").read_bytes())
    (d / "x.toml").write_bytes(text.encode())
    return ["fetch", "x.toml"]


# --- data to train on -------------------------------------------------------------------------------------------------

TRACKS = "cell\ttarget\ttrack\tfile\nX\tTF1\ta\tpeaks.bed\nX\tDNase\tb\tpeaks.bed\n"
DATA: dict[str, Callable[[Path], object]] = {
    "nothing wrong": lambda d: None, "tracks.tsv missing": lambda d: (d / "tracks.tsv").unlink(), "no FASTA": lambda d: (d / "g.fa").unlink(),
    "two FASTA files": lambda d: (d / "h.fa").write_text(">chr8\nACGT\n"), "tracks.tsv empty": lambda d: (d / "tracks.tsv").write_text(""),
    "tracks.tsv without a row": lambda d: (d / "tracks.tsv").write_text(TRACKS[:TRACKS.index("\n") + 1]),
    "tracks.tsv binary": lambda d: (d / "tracks.tsv").write_bytes(bytes(range(256))), "tracks.tsv with commas": lambda d: (d / "tracks.tsv").write_text(TRACKS.replace("\t", ",")),
    "tracks.tsv without the column file": lambda d: (d / "tracks.tsv").write_text(TRACKS.replace("file", "bed")),
    "tracks.tsv with CRLF": lambda d: (d / "tracks.tsv").write_bytes(TRACKS.replace("\n", "\r\n").encode()),
    "tracks.tsv with a byte order mark": lambda d: (d / "tracks.tsv").write_bytes(b"\xef\xbb\xbf" + TRACKS.encode()),
    "a cell is empty": lambda d: (d / "tracks.tsv").write_text(TRACKS.replace("TF1", "")), "a row too long": lambda d: (d / "tracks.tsv").write_text(TRACKS + "X\tTF2\tc\tpeaks.bed\t\t\tmore\tand more\n"),
    "peak file missing": lambda d: (d / "peaks.bed").unlink(), "peak file binary": lambda d: (d / "peaks.bed").write_bytes(bytes(range(256))),
    "peak file empty": lambda d: (d / "peaks.bed").write_text(""), "no peak on a test chromosome": lambda d: (d / "peaks.bed").write_text("chr1\t0\t2000\n"),
    "no test chromosome": lambda d: (d / "g.fa").write_text((d / "g.fa").read_text().replace(">chr8", ">chr7")),
}


@fault("training data", *DATA, "missing", "a file", "no track of the cell")
def _(d, name):
    if name in DATA:
        DATA[name](d / "data")
    where = {"missing": "none", "a file": "g.fa"}.get(name, "data")
    return ["windows", "--data", where, "--cell", "Y" if name == "no track of the cell" else "X", "--out", "new.bed"]


# --- decoys -----------------------------------------------------------------------------------------------------------

def decoys(d: Path, **change: object) -> Arguments:
    "The command line of `deepmr decoys` on tiles of the genome, of which every second stretch is open."
    (d / "tiles.bed").write_text("".join(f"chr1\t{s}\t{s + 120}\tw\t0\t+\t{'X_TF1_None' if s % 60 else '.'}\n" for s in range(0, 2880, 20)))
    (d / "open.bed").write_text("".join(f"chr1\t{s}\t{s + 300}\n" for s in range(0, 2800, 600)))
    options = {"model": "toy.safetensors", "outcome": "X_DNase_None", "regions": "tiles.bed", "open": "open.bed", "genome": "g.fa",
               "out": "decoys.safetensors"} | change
    return ["decoys", *(str(t) for k, v in options.items() if v is not None for t in (f"--{k}", v))]


OPENNESS = {"on another chromosome": "chr2\t0\t2000\n", "everywhere": "chr1\t0\t3000\n", "in one window": "chr1\t0\t120\n", "empty": "", "no BED": "hello\n"}
DECOYS: dict[str, dict] = {
    "nothing wrong": {}, "no --open": {"open": None}, "no --genome": {"genome": None}, "--open missing": {"open": "none.bed"}, "--n 12": {"n": 12},
    "--n many": {"n": "many"}, "--seed -1": {"seed": -1}, "--outcome unknown": {"outcome": "X_DNaze_None"}, "one window": {"regions": "sites.bed"},
}


@fault("decoys", *DECOYS, *(f"openness {what}" for what in OPENNESS))
def _(d, name):
    arguments = decoys(d, **DECOYS.get(name, {}))
    if name not in DECOYS:
        (d / "open.bed").write_text(OPENNESS[name.removeprefix("openness ")])
    return arguments


# --- motifs -----------------------------------------------------------------------------------------------------------

def meme(name: str = "TF1", rows: int = 6, row: str = "0.97 0.01 0.01 0.01") -> str:
    "A file of one motif in MEME format."
    head = "MEME version 4\n\nALPHABET= ACGT\n\n"
    return f"{head}MOTIF {name}\nletter-probability matrix: alength= 4 w= 6\n" + f"{row}\n" * rows


MOTIFS: dict[str, str | bytes] = {
    "nothing wrong": meme(), "empty": "", "text": "hello\n", "a FASTA": ">chr1\nACGT\n", "binary": bytes(range(256)), "of other factors": meme("CTCF"), "named twice": meme() + meme(),
    "counts": meme(row="97 1 1 1"), "three columns": meme(row="0.5 0.25 0.25"), "negative": meme(row="1.2 -0.2 0 0"), "words in the matrix": meme(row="a c g t"),
    "cut off": meme(rows=3), "the second cut off": meme() + meme("TF2", 3)}


@fault("motifs", *MOTIFS, "missing", "a directory")
def _(d, name):
    if name in MOTIFS:
        text = MOTIFS[name]
        (d / "m.meme").write_bytes(text if isinstance(text, bytes) else text.encode())
    options = {"model": "toy.safetensors", "exposures": "X_TF1_None", "outcome": "X_DNase_None", "regions": "sites.bed", "genome": "g.fa", "windows": 2,
               "workers": 1, "out": "new", "motifs": d if name == "a directory" else "m.meme"}
    return ["table1", *(str(t) for k, v in options.items() for t in (f"--{k}", v))]


# --- directories of simulate ------------------------------------------------------------------------------------------

@fault("simulation", "of another seed", "simulation.json truncated", "simulation.json binary", "a round truncated", "a round binary")
def _(d, name):
    (d / "s" / "rounds").mkdir(parents=True)
    (d / "s" / "networks").mkdir()
    record = {"recipe": api.RECIPE["protocols"], "seed": 1 if "seed" in name else 0, "options": {}}
    text = json.dumps(record).encode()
    (d / "s" / "simulation.json").write_bytes({"simulation.json truncated": text[:20], "simulation.json binary": bytes(range(256))}.get(name, text))
    (d / "s" / "rounds" / "none_000.json").write_bytes(bytes(range(256)) if name == "a round binary" else b'[{"scenario":')
    return ["simulate", "--scenario", "none", "--rounds", "1", "--workers", "1", "--out", "s"]


# --- Python -----------------------------------------------------------------------------------------------------------

def call(function: str, good: dict, /, **faults: dict) -> None:
    "Calls of a public function of deepmr with some arguments replaced. Values that are functions of the folder are called first."
    for what, change in faults.items():
        def make(d, change=change):
            filled = {k: v(d) if callable(v) else v for k, v in (good | change).items()}
            return lambda: getattr(api, function)(**filled)
        FAULTS[f"Python, {function}", what.replace("_", " ")] = make


def toy(d: Path):
    return toy_model()


def dna(n: int = 2, length: int = 120) -> np.ndarray:
    "(n, 4, length) one-hot."
    return np.eye(4, dtype=np.float32)[np.random.default_rng(1).integers(0, 4, (n, length))].transpose(0, 2, 1)


def with_first(x: np.ndarray, value: float) -> np.ndarray:
    return np.concatenate([np.full_like(x.ravel()[:1], value), x.ravel()[1:]]).reshape(x.shape)


call("load_model", {"spec": "hepg2"}, none={"spec": None}, a_number={"spec": 3}, an_empty_list={"spec": []}, a_list_of_one={"spec": ["hepg2"]},
     a_list_of_numbers={"spec": [3, 4]}, a_network_without_labels={"spec": lambda d: torch.nn.Linear(2, 2)}, a_class={"spec": lambda d: torch.nn.Linear},
     device_unknown={"device": "warp"})
call("adapt", {"network": lambda d: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(80, 3)), "labels": ["a", "b", "c"], "length": 20},
     network_none={"network": None}, labels_too_few={"labels": ["a"]}, labels_none={"labels": []}, length_of_another_network={"length": 30}, length_zero={"length": 0},
     length_negative={"length": -5}, axes_unknown={"axes": "NXY"}, alphabet_with_N={"alphabet": "ACGN"}, a_part_that_the_output_does_not_have={"output": 1},
     reduce_without_a_profile={"reduce": "mean"})
call("mutation_effects", {"model": toy, "x": dna(), "exposure": "X_TF1_None", "outcome": "X_DNase_None", "n_draws": 2, "workers": 1},
     x_of_one_dimension_less={"x": dna()[0]}, x_of_another_length={"x": dna(2, 100)}, x_with_positions_before_bases={"x": dna().transpose(0, 2, 1)}, x_empty={"x": dna(0)},
     x_NaN={"x": with_first(dna(), np.nan)}, x_infinite={"x": with_first(dna(), np.inf)}, x_not_one_hot={"x": np.full((1, 4, 120), 0.25)}, x_text={"x": "ACGT"}, x_none={"x": None},
     exposure_unknown={"exposure": "X_TF3_None"}, exposure_too_large={"exposure": 3}, exposure_negative={"exposure": -1}, exposure_none={"exposure": []},
     exposure_twice={"exposure": [0, "X_TF1_None"]}, exposure_is_the_outcome={"exposure": 2}, outcome_unknown={"outcome": "DNase"}, n_draws_1={"n_draws": 1},
     n_draws_a_fraction={"n_draws": 2.5}, n_draws_text={"n_draws": "5"}, seed_negative={"seed": -1}, seed_a_fraction={"seed": 0.5}, engine_unknown={"engine": "warp"},
     windows_too_few={"windows": ["a"]}, windows_twice={"windows": ["a", "a"]}, workers_0={"workers": 0}, model_by_name={"model": "hepg2"})
call("one_hot", {"sequences": "ACGT"}, empty={"sequences": ""}, an_empty_list={"sequences": []}, N={"sequences": "ACN"}, lengths_that_differ={"sequences": ["A", "AC"]},
     none={"sequences": None}, numbers={"sequences": [1, 2]}, lower_case={"sequences": "acgt"}, ambiguous_unknown={"sequences": "ACN", "ambiguous": "drop"})
call("sample_bound", {"windows": lambda d: pd.DataFrame({"chrom": ["a"], "start": [0], "end": [9], "name": ["w"]}), "bound": [True]},
     n_0={"n": 0}, bound_too_long={"bound": [True, False]})
EXPERIMENT = {"model": "toy.safetensors", "exposures": ("X_TF1_None",), "outcome": "X_DNase_None", "regions": "sites.bed", "genome": "g.fa", "windows": 2, "draws": 5}


def experiment(**change: object) -> Callable[[Path], object]:
    def make(d):
        return api.Experiment(**(EXPERIMENT | change))
    return make


call("run", {"out": "new", "execution": lambda d: api.Execution(workers=1, announce=lambda line: None)}, **{
    name: {"experiment": experiment(**change)} for name, change in {
        "model none": {"model": None}, "exposures a string": {"exposures": "X_TF1_None"}, "exposures unknown": {"exposures": ("X_TF3_None",)}, "outcome none": {"outcome": None},
        "regions a number": {"regions": 3}, "windows text": {"windows": "2"}, "windows a fraction": {"windows": 2.5}, "draws text": {"draws": "5"}, "draws a fraction": {"draws": 2.5},
        "seed negative": {"seed": -1}, "seed a fraction": {"seed": 0.5}, "seed text": {"seed": "0"}, "protocol unknown": {"protocol": "best"}, "protocol a number": {"protocol": 3},
        "engine unknown": {"engine": "warp"}}.items()},
     experiment_none={"experiment": None}, workers_0={"experiment": experiment(), "execution": lambda d: api.Execution(workers=0, announce=lambda line: None)})
call("table1", {"out": "run"}, protocol_unknown={"protocol": "best"}, out_no_run={"out": "."})
call("open_effects", {"out": "run", "window": "chr1:165-285"}, window_unknown={"window": "chr1:0-1"}, window_outside={"window": "../../etc/passwd"})

def decoy_file(seed: int = 0, change: Callable[[bytes], bytes] = bytes) -> Callable[[Path], Path]:
    "A file of decoys for the toy network of a seed, with changed bytes."
    def make(d):
        codes = np.random.default_rng(0).integers(0, 4, (300, 120)).astype(np.int8)
        rich = np.isin(codes, (1, 2)).sum(1) > 60
        api.save_decoys(d / "x.decoys", toy_model(seed), codes, rich, ["X_TF1_None"], "X", rich[:, None] & (np.arange(300) % 3 == 0)[:, None], n=20)
        (d / "x.decoys").write_bytes(change((d / "x.decoys").read_bytes()))
        return d / "x.decoys"
    return make


call("attach_decoys", {"model": toy, "path": decoy_file()}, nothing_wrong={}, missing={"path": "none"}, a_directory={"path": "data"}, none={"path": None},
     of_another_network={"path": decoy_file(1)}, truncated={"path": decoy_file(change=lambda b: b[:-9])}, text={"path": decoy_file(change=lambda b: b"hello")},
     weights_of_a_network={"path": "toy.safetensors"}, twice={"model": lambda d: api.attach_decoys(toy_model(), decoy_file()(d))})
call("fit_decoys", {"model": toy, "x": dna(60), "decoys": np.arange(120).reshape(60, 2) % 3 == 0, "cell": "X"}, nothing_wrong={},
     decoys_of_fewer_windows={"decoys": np.ones((9, 2))}, decoys_of_two_windows={"decoys": np.arange(120).reshape(60, 2) < 4}, x_not_one_hot={"x": np.full((60, 4, 120), 0.25)},
     a_network_that_ends_in_a_convolution={"model": lambda d: api.SequenceModel(
         torch.nn.Sequential(torch.nn.Conv1d(4, 3, 120), torch.nn.Flatten(), torch.nn.Sigmoid()), ["a", "b", "c"], 120)},
     a_network_of_counts={"model": lambda d: api.SequenceModel(
         torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(480, 3), torch.nn.Softplus()), ["a", "b", "c"], 120, output="count")})

def asked(n_draws: int | None = None, **change: object) -> Callable[[Path], object]:
    "Effects of two windows on two exposures."
    def make(d):
        return api.mutation_effects(toy_model(), dna(2), [0, 1], 2, n_draws=n_draws, **change)
    return make


call("causal_effect", {"effects": asked(), "exposure": "X_TF1_None"}, exposure_of_two={"exposure": None}, exposure_unknown={"exposure": "X_TF3_None"},
     no_dataset={"effects": 3}, draws_not_kept={"effects": asked(3, same_masks=True)}, other_masks_in_each_window={"effects": asked(3, keep_draws=True)},
     protocol_of_draws={"protocol": api.PROTOCOLS["paper"]}, protocol_of_shipped_weights={"effects": asked(3, keep_draws=True, same_masks=True), "protocol": api.PROTOCOLS["default"]},
     level_95={"level": 95})
call("crossed_effects", {"slopes": np.random.default_rng(0).normal(size=(6, 3))}, nothing_wrong={}, one_network={"slopes": np.ones((6, 1))}, one_window={"slopes": np.ones((1, 3))},
     one_dimension={"slopes": np.ones(6)}, NaN={"slopes": np.full((6, 3), np.nan)}, text={"slopes": [["a", "b"]]})
call("Ensemble", {"members": lambda d: [toy_model(), toy_model(1)]}, one_member={"members": lambda d: [toy_model()]}, none={"members": []})
call("fixed_network", {"slopes": [0.1, 0.3, 0.2]}, one_window={"slopes": [0.1]}, NaN={"slopes": [0.1, np.nan]}, skewness_NaN={"skewness": np.nan})

SUMMARY = {"bx": [0.1, 0.2, -0.3, 0.4], "bxse": [0.01] * 4, "by": [0.05, 0.1, -0.1, 0.2], "byse": [0.02] * 4}
WRONG = {"lengths differ": {"by": [1.0]}, "NaN": {"bx": [0.1, np.nan, -0.3, 0.4]}, "infinite": {"by": [np.inf, 0.1, -0.1, 0.2]}, "SE zero": {"byse": [0.02, 0, 0.02, 0.02]},
         "SE negative": {"byse": [0.02, -0.02, 0.02, 0.02]}, "empty": {k: [] for k in SUMMARY}, "two dimensions": {k: np.ones((2, 2)) for k in SUMMARY}, "text": {"bx": list("abcd")},
         "missing": {"byse": None}, "one mutation": {k: v[:1] for k, v in SUMMARY.items()}, "a nested list": {"bx": [[0.1], [0.2, 0.3]]}, "level 95": {"level": 95}}
for _method, _options in {"ivw": {"model": "best"}, "egger": {"distribution": "cauchy"}, "weighted_median": {"n_boot": 0}, "mode_based": {"phi": 0}, "divw": {"cov": [9.0] * 4},
                          "raps": {"loss": "huge"}, "gls": {"rho": np.zeros((4, 4))}}.items():
    call(_method, SUMMARY | ({"rho": np.eye(4)} if _method == "gls" else {}), **WRONG, **{f"{next(iter(_options))} unknown or impossible": _options})
call("mvmr", SUMMARY | {"bx": np.c_[SUMMARY["bx"], SUMMARY["by"]], "bxse": np.full((4, 2), 0.01)}, one_dimension={"bx": SUMMARY["bx"]}, names_too_few={"names": ["a"]},
     NaN={"bx": np.full((4, 2), np.nan)}, exposures_that_are_the_same={"bx": np.c_[SUMMARY["bx"], SUMMARY["bx"]]})
call("mask_bootstrap", {"draws_x": np.random.default_rng(0).normal(size=(5, 6)), "draws_y": np.random.default_rng(1).normal(size=(5, 6)), "positions": np.arange(6)},
     one_draw={"draws_x": np.ones((1, 6)), "draws_y": np.ones((1, 6))}, shapes_differ={"draws_y": np.ones((5, 5))}, positions_too_few={"positions": [0]}, NaN={"draws_x": np.full((5, 6), np.nan)},
     n_boot_0={"n_boot": 0}, seed_negative={"seed": -1}, text={"draws_x": [["a"]]}, none={"draws_x": None})
call("steiger", SUMMARY, n_draws_1={"n_draws": 1}, SE_negative=WRONG["SE negative"], lengths_differ=WRONG["lengths differ"])
STUDIES = {"estimate": [0.1, 0.3, 0.2], "se": [0.1, 0.1, 0.2]}
META = {"lengths differ": {"se": [0.1]}, "NaN": {"estimate": [0.1, np.nan, 0.2]}, "infinite": {"estimate": [0.1, np.inf, 0.2]}, "SE zero": {"se": [0.1, 0, 0.2]}, "SE negative": {"se": [0.1, -0.1, 0.2]},
        "empty": {"estimate": [], "se": []}, "text": {"estimate": list("abc")}, "two dimensions": {"estimate": np.ones((3, 2))}, "too large to square": {"estimate": [1e200, 0, 0]}, "level 95": {"level": 95}}
call("random_effects", STUDIES, **META, tau2_unknown={"tau2": "XX"}, ci_unknown={"ci": "XX"})
call("fixed_effect", STUDIES, **META)
call("two_level", STUDIES | {"draws": np.arange(5.0) + np.zeros((3, 1))}, **META, draws_of_another_number_of_windows={"draws": np.ones((2, 5))}, one_draw={"draws": np.ones((3, 1))},
     draws_NaN={"draws": np.full((3, 5), np.nan)}, draws_of_other_masks={"draws": np.random.default_rng(0).normal(size=(3, 5))})
call("meta_regression", STUDIES | {"X": [[0.0], [1.0], [2.0]]}, **META, moderators_too_many={"X": np.ones((3, 5))}, moderator_constant={"X": np.ones((3, 1))}, moderator_NaN={"X": np.full((3, 1), np.nan)})
call("egger_test", STUDIES, **META)


# --- what each gets ---------------------------------------------------------------------------------------------------

# The kind of a refusal, by words that its sentence must hold. The first kind that fits counts. This is the one place that knows wordings.
KINDS = {
    "runs_code": r"could run code|runs the Python code",
    "no_permission": r"Permission denied",
    "disk_full": r"File too large|No space left",
    "not_installed": r"not installed|found no package",
    "in_use": r"in use by another",
    "no_answer": r"(did|does) not answer|no answer",
    "not_a_file": r"found a directory|Not a directory|File exists|the name of a file",
    "two_readings": r"may both be|columns of zeros|different digests|without a label|beside --peaks",
    "of_another": r"of hg\d\d in|expected one assembly|holds another|holds rounds of another|decoys of another|not a run of deepmr|outside the run|differs from"
                  r"|with md5",
    "damaged": r"is damaged|not damaged",
    "too_large": r"unpacks? to|found over|squares fit|not squeezed",
    "not_finite": r"\bnan\b|\binf\b|not( a)? finite",
    "not_dna": r"only A, C, G and T|expected A, C, G or T|lengths .* all to be equal|expected text of A, C, G|expected letters of bases",
    "duplicate": r"\btwice\b|values, expected one$|each label once|different names for|Duplicate key|constant, or a combination|Cannot overwrite a value",
    "conflict": r"protocol: found .* for effects|found other masks in each|agree no more between windows|which is the outcome|found both|without decoys|peaks, chromosomes and genome together",
    "unknown_name": r"does not predict|found no chromosome|which .* does not have|no label of .* begins|unknown key|[Dd]id you mean|No such (command|option)"
                    r"|expected one of [^s]|expected a list of [a-z]+,|found no track|no column|expected '\w+' or '\w+'|which cannot be used here|expected \S+#1 to"
                    r"|number -?\d+, expected 0 to",
    "not_a_model": r"expected 'hepg2'|cannot be loaded|, expected a (deepmr\.|SequenceModel|model\b)|without labels|is defined as|expected 'torch:|expected a torch",
    "wrong_format": r"not in MEME format|no probabilities of A, C|no whole matrix|cannot be read as|is not TOML|found no table|does not hold (a network|decoys)|does not fit the network|tensors by name",
    "missing": r"found no |found neither|found none|found nothing|is missing|^Missing |requires an argument|names no weights|found 0 FASTA",
    "empty": r"is empty|an empty|without a value",
    "out_of_range": r"(found|is) -?\d+[,:] expected (a whole|at most)|found 1 window, expected|found \d members, expected|greater than|number between|zero or more|above zero|0 <= start|wholly inside"
                    r"|begin .* before|within it|covariance of|a size of -|at least two names|(open|closed) windows? among|windows in it",
    "wrong_type": r"whole number|valid integer|found the text|expected numbers|is not an array|found no array|array of numbers|matrix of numbers|expected a table"
                  r"|numbers of shape|found an? (str|NoneType|int)\b|found an output that is a ",
    "wrong_shape": r"shape|values, expected \d+ as in|columns?\b|equal|lengths? \d|expected one standard error|one for each|more than the|one-hot|not that of its network|correlation matrix",
    "malformed": r"expected a name|another name|expected a probability|address that begins|hexadecimal|letters ACGT|N first, then C|bases in the record"
                 r"|a label of the model|`deepmr table1 --model` takes it|FASTA files in",
}


@dataclass(frozen=True)
class Outcome:
    "How a command line or a call ended."

    exit: str  # the exit code; in Python 'none', or the name of the exception
    says: str  # the last message, or 'accepted'

    @property
    def argument(self) -> str:
        "What the sentence is about: its words before the first colon; for a complaint of the command line itself, what it puts in quotes."
        if self.says.startswith("accepted"):
            return ""
        usage = re.match(r"(?:Invalid value for|Missing option|Missing argument|Option|No such command) '([^']+)'|No such option: (\S+)", self.says)
        return next(filter(None, usage.groups())) if usage else self.says.partition(": ")[0]

    @property
    def kind(self) -> str:
        "The kind of fault, one of KINDS; for input that is taken, whether it was taken in silence."
        if self.says.startswith("accepted"):
            return "accepted" if self.says == "accepted" else "accepted with a word"
        return next((kind for kind, words in KINDS.items() if re.search(words, self.says)), "none of KINDS")

    @property
    def names(self) -> list[str]:
        "Up to three things that the sentence quotes as found: words in quotes, files, numbers. For input that is taken: codes of warnings."
        if self.says.startswith("accepted"):
            return re.findall("damaged or missing|\\b[a-z0-9]+_[a-z0-9_]+", self.says)
        found = re.split(r"(?:^|, )expected |; |(?<!shape) \(", self.says.partition(": ")[2])[0]  # without what a library says, in brackets
        named = re.findall(r"(?<!\w)'[^']{0,40}'(?!\w)|[\w./-]*\w\.[a-z]\w+|(?<![\w.])-?\d[\d.,]*\d\b|(?<![\w.])-?\d\b", found)
        return list(dict.fromkeys(name for name in named if len(name) <= 60))[:3]


def prepare(folder: Path) -> None:
    "The good files, and a finished run."
    from deepmr.core import Execution
    from deepmr.experiment import Experiment
    from deepmr.networks import save_model
    from deepmr.pipeline import run
    save_model(toy_model(), dict(n_labels=3, channels=(16, 16), kernels=(7, 3), pools=(4, 2), conv_dropout=(0.2, 0.2), hidden=16,
                                 hidden_dropout=0.4, length=120), folder / "toy.safetensors")
    dna = "".join(np.random.default_rng(0).choice(list("ACGT"), 3000))
    (folder / "g.fa").write_text(f">chr1\n{dna}\n")
    (folder / "sites.bed").write_bytes(BED)
    (folder / "toy.pth").write_bytes(saved(state()))
    (folder / "toy.toml").write_text(TOML)
    (folder / "wide.bed").write_bytes(b"chr1\t200\t800\n")
    (folder / "data").mkdir()
    (folder / "data" / "g.fa").write_text("".join(f">{c}\n{dna}\n" for c in ("chr1", "chr8", "chr16")))
    (folder / "data" / "tracks.tsv").write_text(TRACKS)
    (folder / "data" / "peaks.bed").write_text("".join(f"{c}\t0\t2000\n" for c in ("chr1", "chr8", "chr16")))
    run(Experiment(model="toy.safetensors", exposures=("X_TF1_None",), outcome="X_DNase_None", regions="sites.bed", genome="g.fa", windows=2,
                   draws=5), folder / "run", Execution(workers=1, announce=lambda line: None))


def words(text: str, folder: Path, cache: Path) -> str:
    "The last message on the error stream, without the places of this machine and the frame that typer draws."
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)  # colours, which a notebook asks for
    text = text.replace(f"{cache}/", "CACHE/").replace(str(cache), "CACHE").replace(f"{folder}/", "").replace(str(folder), ".")
    framed = [line.strip("│ ") for line in text.splitlines() if line.startswith("│")]
    if framed:
        return " ".join(framed)
    lines = [line for line in text.replace("\r", "\n").splitlines() if line.startswith("deepmr: ")]
    return " / ".join(lines).removeprefix("deepmr: ")


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    "No file may grow beyond 100 bytes: writing fails as on a full disk, with another number."
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class _Capabilities(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


@contextlib.contextmanager
def plain_user() -> Iterator[None]:
    "Let permissions of files count for root, too: this thread goes without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH (capset(2))."
    libc, header, sets = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (_Capabilities * 2)()
    libc.capget(header, sets)
    before, sets[0].effective = sets[0].effective, sets[0].effective & ~0b110
    libc.capset(header, sets)
    try:
        yield
    finally:
        sets[0].effective = before
        libc.capset(header, sets)


def do(asked: Arguments | Callable[[], object], folder: Path, cache: Path) -> Outcome:
    "Run a command line, or call a function, in this process."
    from typer.testing import CliRunner

    from deepmr.cli import app
    if callable(asked):
        try:
            answer = asked()
        except Exception as error:
            return Outcome(type(error).__name__, words(f"deepmr: {' '.join(str(error).split())}", folder, cache))
        named = {str(w).split(":")[0] for part in (answer.values() if isinstance(answer, dict) else [answer]) for w in getattr(part, "warnings", ())}
        return Outcome("none", "accepted" + (f", warns of {', '.join(sorted(named))}" if named else ""))
    done = CliRunner().invoke(app, asked)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        return Outcome(str(done.exit_code), f"{type(done.exception).__name__}: {done.exception}")
    text = done.stdout + done.stderr
    again = re.search("files of .*(?:damaged|missing).*|note: .*no effect|.*has no region on.*", text)
    noted = sorted(code for code in INPUT_NOTES if api.NOTES[code].sentence.removesuffix(".") in text)
    said = f": {again[0]}" if again else f", warns of {', '.join(noted)}" if noted else ""
    return Outcome(str(done.exit_code), words(done.stderr, folder, cache) if done.exit_code else "accepted" + said)


INPUT_NOTES = ("regions_left_out", "chromosomes_matched", "regions_serve_all", "unknown_labels", "labels_without_header", "columns_not_read", "minus_strand_ignored",
               "no_minus_strand", "trained_chromosomes")  # of how regions and genome were read


KEPT = {f"output: table1: {FULL}": {"windows.bed"}}  # whole files of refused command lines, which the next attempt makes use of


def there(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


@contextlib.contextmanager
def elsewhere(folder: Path, cache: Path) -> Iterator[None]:
    "In that folder, with that cache, and with fresh modules of the makers."
    before = list(sys.path), dict(os.environ), sys.modules.get("kipoi")
    sys.path.insert(0, str(folder))
    os.environ["DEEPMR_CACHE"] = str(cache)
    for name in ("faulty", "faulty_syntax", "faulty_import"):
        sys.modules.pop(name, None)
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        sys.path[:] = before[0]
        os.environ.clear()
        os.environ.update(before[1])
        sys.modules.pop("kipoi", None)
        if before[2] is not None:
            sys.modules["kipoi"] = before[2]
        while HELD:
            HELD.pop().close()


def survey(good: Path, of: str, what: str, folder: Path, cache: Path) -> Outcome:
    "How a fault ends, on a copy of the good files in a new folder. No code of a file is run, and nothing half written is left."
    shutil.copytree(good, folder, symlinks=True)
    with elsewhere(folder, cache):
        asked, before = FAULTS[of, what](folder), there(folder)
        undrawn = mock.patch("deepmr.plots.draw_figures", return_value=[])  # of table1 and run: they would take most of the time
        with undrawn, plain_user(), full_disk() if what.endswith(FULL) else contextlib.nullcontext():
            found = do(asked, folder, cache)
        for path in folder.rglob("*"):
            path.chmod(0o755) if path.is_dir() else None
        left = there(folder) - before
    assert not (folder / "ran").exists(), "code of a file was run"
    assert not [path for path in left if path.name.endswith(".part")], left
    assert found.exit == "0" or {path.name for path in left} <= KEPT.get(f"{of}: {what}", set()), left
    return found


def survey_all(inputs: list[str]) -> Iterator[tuple[str, str, Outcome]]:
    "(input, fault, how it ends) for all inputs, or for those named."
    with tempfile.TemporaryDirectory() as place:
        (good := Path(place, "good")).mkdir()
        os.environ["DEEPMR_CACHE"] = str(good / "cache")
        deepmr.regions.UCSC = "http://127.0.0.1:9/closed"  # as in the tests: no network
        with contextlib.chdir(good):
            prepare(good)
        for i, (of, what) in enumerate(FAULTS):
            if not inputs or of in inputs:
                yield of, what, survey(good, of, what, Path(place, f"here{i}"), Path(place, "cache"))
                shutil.rmtree(Path(place, f"here{i}"))


def rewrite_table(inputs: list[str]) -> None:
    "Put how each fault ends now into the table, for all inputs or those named."
    rows = {(r["input"], r["fault"]): r for r in csv.DictReader(TABLE.open(newline="", encoding="utf-8"))}
    for of, what, found in survey_all(inputs):
        rows[of, what] = {"input": of, "fault": what, "exit": found.exit, "argument": found.argument, "kind": found.kind,
                          "names": " | ".join(found.names), "says": found.says}
        print(of, what, found.exit, found.kind, found.says, sep=" | ", flush=True)
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["input", "fault", "exit", "argument", "kind", "names", "says"], lineterminator="\n")
        table.writeheader()
        table.writerows(rows[key] for key in FAULTS if key in rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="*", help="write the rows of these inputs again; without any, all rows")
    rewrite_table(parser.parse_args().inputs)
