"""Make the windows that ship, with their sequence: `python tools/make_windows.py [DATA [OUT]]`, about a minute.

They are all windows of the held-out chromosomes that carry a HepG2 label, a pooled label or a decoy in the data that the default model learns from.
DATA is a directory with tracks.tsv and all that `ALL_SOURCES` names. OUT gets the windows as BED, their sequence as FASTA, and checksums of both.
"""
import gzip
import hashlib
import sys
from pathlib import Path

import pandas as pd

from deepmr.regions import Genome, windows_bed
from deepmr.training_data import ALL_SOURCES, held_out_windows, load_data

ROOT = Path(__file__).resolve().parents[1]


def stretches(windows: pd.DataFrame) -> list[tuple[str, int, int]]:
    "What the windows cover, each base once: chrom, start, end, in the order of the genome."
    joined: list[tuple[str, int, int]] = []
    for chrom, start, end in sorted(windows[["chrom", "start", "end"]].itertuples(index=False, name=None)):
        if joined and joined[-1][0] == chrom and start <= joined[-1][2]:
            joined[-1] = (chrom, joined[-1][1], max(joined[-1][2], end))
        else:
            joined.append((chrom, start, end))
    return joined


def make(data: Path) -> dict[str, str]:
    "The text of each file by its name."
    windows = held_out_windows(load_data(data, options=ALL_SOURCES))
    [fasta] = data.glob("*.fa.gz")
    genome = Genome(fasta)
    records = [f">{chrom}:{start}-{end}\n{genome.fetch(chrom, start, end)}\n" for chrom, start, end in stretches(windows)]
    return {"hepg2_windows.bed.gz": windows_bed(windows), "hepg2_windows.fa.gz": "".join(records)}


def main(data: str = str(ROOT.parent / "shared" / "hg19"), out: str = str(ROOT / "deepmr" / "data")) -> None:
    sums = []
    for name, text in make(Path(data)).items():
        packed = gzip.compress(text.encode(), 9, mtime=0)
        Path(out, name).write_bytes(packed)
        sums.append(f"{hashlib.sha256(packed).hexdigest()}  {name}\n")
        print(f"{name}: {len(packed):,} bytes")
    Path(out, "hepg2_windows.sha256").write_text("".join(sums))


if __name__ == "__main__":
    main(*sys.argv[1:])
