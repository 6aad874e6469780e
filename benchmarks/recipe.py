"""What each part of the training recipe brings: the recipe with one part taken back at a time, a short training each.

    python benchmarks/recipe.py --data ../shared/hg19 --epochs 4 --out runs/recipe

The learning rate's course is shortened with the training (20 and 6 epochs for the 11 of the recipe). A training of four epochs
takes about twelve minutes on one core; finished ones are found in `--out` and not made again. The recipe itself is trained with
several seeds, which says how large a difference chance alone makes.
Writes benchmarks/results/recipe.csv: AUROC of every HepG2 label on the validation and the test chromosomes.
"""

import argparse
from pathlib import Path

import pandas as pd

from deepmr.core import Execution
from deepmr.models import load_model
from deepmr.training import Recipe, jaspar, label_auroc, predict_logits, train
from deepmr.training_data import load_data

RESULTS = Path(__file__).parent / "results" / "recipe.csv"


def newest():
    "The newest version of each motif, whatever it ranks."
    return {name: list(versions.values())[-1] for name, versions in jaspar().items()}


VARIANTS = {  # name -> (seed, what differs from Recipe())
    "recipe": (0, {}),
    "newest motifs": (0, {"motifs": newest}),
    "no motifs": (0, {"motifs": dict}),
    "filters of 16 bp": (0, {"architecture": Recipe().architecture | {"kernels": [16, 6, 4]}}),
    "HepG2 alone": (0, {"share": 1.0}),
    "no moving average": (0, {"decay": 0.0}),
    "no jitter": (0, {"jitter": 0}),
    "HepG2 by its count": (0, {"share": None}),
    "twice the negatives": (0, {"negatives": 2.0}),
    "recipe, seed 1": (1, {}),
    "recipe, seed 2": (2, {}),
}


def areas(path, data):
    "label, validation and test AUROC of the model in `path`."
    net = load_model(str(path)).module
    split = {name: label_auroc(data, rows, predict_logits(net, data, rows)) for name in ("validation", "test") if len(rows := data.rows(name))}
    return pd.DataFrame({"label": data.labels, **split})[data.focus]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("runs/recipe"))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    data, tables = load_data(options.data), []
    for name, (seed, told) in VARIANTS.items():
        folder = options.out / name.replace(",", "").replace(" ", "_")
        told = {k: v() if callable(v) else v for k, v in told.items()}
        if told.get("share", 1) is None:
            told["share"] = float(data.focus.mean())
        if not (folder / "hepg2.safetensors").exists():
            recipe = Recipe(epochs=options.epochs, cycle=round(20 * options.epochs / 11), cooldown=round(6 * options.epochs / 11),
                            threads=options.threads, **told)
            train(data, folder, recipe, seed=seed, execution=Execution(announce=lambda line, name=name: print(name, line, flush=True)))
        tables.append(areas(folder / "hepg2.safetensors", data).assign(variant=name, seed=seed, epochs=options.epochs))
        pd.concat(tables).to_csv(RESULTS, index=False)


if __name__ == "__main__":
    main()
