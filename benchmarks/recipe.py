"""What each part of the training recipe brings: the recipe with one part taken back at a time, a short training each.

    python benchmarks/recipe.py --data ../shared/hg19 --windows 80000 --out runs/recipe

Each variant has the same seed, bootstrap sample and number of steps: one epoch of so many windows, with the whole cycle of the rate. Finished
ones are found in `--out` and not made again; `--only` makes some. Writes benchmarks/results/recipe.csv, a row for each label and variant:
AUROC on the test chromosomes, among all windows and among those that carry any label, and the rank of the label's own motif among those planted.
About seven minutes of a core for each variant: three to train, the rest to set the intercepts and to test.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from deepmr.core import Execution
from deepmr.evaluation import planting_table
from deepmr.models import load_model
from deepmr.training import Recipe, first_motifs, label_auroc, predict_logits, train
from deepmr.training_data import ALL_SOURCES, load_data

RESULTS = Path(__file__).parent / "results" / "recipe.csv"
BASE = {"summit": 0.0, "architecture": Recipe().architecture | {"crop": 800}}  # the recipe before the last two variants became part of it
VARIANTS = {  # what differs from that; under "data" what differs from the data
    "recipe": {},
    "own motif starts at random": {"trust": 0.0},
    "own motif starts at one log ratio": {"trust": 1.0},
    "no skip": {"architecture": BASE["architecture"] | {"motif_skip": 0}},
    "no motifs": {"motifs": {}},
    "as many unlabelled windows": {"negatives": 1.0},
    "absent peaks are negatives": {"data": {"taught": None}},  # what `in_loss` leaves out of the loss takes part
    "no short sites": {"sites": 0.0},
    "all short sites": {"sites": 1.0},
    "summits asked besides": {"summit": 0.2},
    "whole window": {"architecture": Recipe().architecture},
}


def judged(net, data, motifs):
    "A row for each label. The motifs are planted in all variants alike."
    rows, source = data.rows("test"), np.array(data.sources)
    logits, some = predict_logits(net, data, rows), data.y[rows].any(1)
    table = pd.DataFrame({"label": data.labels, "source": np.where(data.focus, source, "others"), "auroc": label_auroc(data, rows, logits),
                          "among_labelled": label_auroc(data, rows[some], logits[some])})
    planted = planting_table(net, data, motifs)[["label", "rank", "z", "share"]]
    return table.merge(planted, on="label", how="left")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--windows", type=int, default=80_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/recipe"))
    parser.add_argument("--only", nargs="*", default=list(VARIANTS))
    options = parser.parse_args()
    data = load_data(options.data, options=ALL_SOURCES)
    motifs = first_motifs(data, Recipe().n_motifs)
    for name in options.only:
        folder = options.out / name.replace(" ", "_")
        if not (folder / "judged.csv").exists():
            changes = {"epochs": 1, "windows": options.windows, "motifs": motifs, "data": {}} | BASE | VARIANTS[name]
            taught, recipe = replace(data, **changes.pop("data")), Recipe(**changes)
            execution = Execution(announce=lambda line, name=name: print(name, line, flush=True))
            train(taught, folder, recipe, seed=options.seed, name="net", execution=execution)
            net = load_model(str(folder / "net.safetensors")).module
            judged(net, data, motifs).assign(variant=name, seed=options.seed, windows=options.windows).to_csv(folder / "judged.csv", index=False)
    done = [folder for name in VARIANTS if (folder := options.out / name.replace(" ", "_") / "judged.csv").exists()]
    pd.concat([pd.read_csv(path) for path in done]).round(4).to_csv(RESULTS, index=False)


if __name__ == "__main__":
    main()
