"""Write the motifs of a model's factors as a MEME file: `python tools/make_motifs.py TRACKS.tsv [MORE.tsv ...] OUT.meme`.

TRACKS.tsv and others list the tracks that the model was trained on (columns cell, target, deepsea_label). A motif has the name of the
factor in the labels, in capitals
(`GABP` for `HepG2_GABP_None`). It is the version of JASPAR 2024 (CC BY 4.0) that a first filter of the default model started from, else the newest.
"""
import sys
from importlib.resources import files

import numpy as np
import pandas as pd

from deepmr.core import write_file
from deepmr.training import jaspar


def chosen_versions() -> dict[str, str]:
    "Motif name -> matrix id, as the default model's first filters have them."
    with (files("deepmr") / "data" / "hepg2_first_filters.csv").open() as f:
        table = pd.read_csv(f)
    return dict(zip(table.motif, table.matrix))


def meme(motifs: dict[str, tuple[str, np.ndarray]]) -> str:
    "MEME text of motifs: name -> (matrix id, counts (4, width))."
    parts = ["MEME version 4\n\nALPHABET= ACGT\n\nstrands: + -\n\nBackground letter frequencies\nA 0.25 C 0.25 G 0.25 T 0.25\n"]
    for name, (matrix, counts) in sorted(motifs.items()):
        p = counts / counts.sum(0)
        rows = "\n".join(" ".join(f"{v:.4f}" for v in column) for column in p.T)
        parts.append(f"MOTIF {name} {matrix}\nletter-probability matrix: alength= 4 w= {p.shape[1]} nsites= {round(counts.sum(0).max())}\n{rows}\n")
    return "\n".join(parts)


def main() -> None:
    tracks, out = pd.concat([pd.read_csv(path, sep="\t", dtype=str) for path in sys.argv[1:-1]]), sys.argv[-1]
    chosen, known, motifs = chosen_versions(), jaspar(None, widest=35), {}
    for track in tracks.itertuples():
        label = track.deepsea_label if isinstance(track.deepsea_label, str) else f"{track.cell}_{track.target}_None"
        name, versions = label.split("|")[0].split("_")[1], known.get(track.target.upper())
        if versions and name != "DNase":
            matrix = chosen.get(track.target.upper())
            matrix = matrix if matrix in versions else list(versions)[-1]
            motifs[name.upper()] = (matrix, versions[matrix])
    write_file(out, meme(motifs))
    print(f"{len(motifs)} motifs: {out}")


if __name__ == "__main__":
    main()
