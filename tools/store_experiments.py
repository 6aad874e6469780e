"""Keep what `23_experiments` shows: `python tools/store_experiments.py [MODEL [SHARED [RESULTS]]]`, a few minutes on one core.

MODEL is a name or file that `load_model` takes and whose labels are named CELL_FACTOR_TREATMENT. SHARED holds mpra/, hg19/ and models/.
Effects predicted for single mutations are compared with effects measured by saturation mutagenesis (Kircher et al. 2019). Then the measured effects
are the outcome of the package's estimators, with the model's effects on each factor as exposures. Nothing but the results is kept.
"""
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import norm, rankdata

from deepmr.adapters import adapt
from deepmr.core import InputError
from deepmr.effects import draw_source, make_engine, window_draws
from deepmr.models import load_model
from deepmr.mr import divw, egger, ivw, mvmr
from deepmr.mutagenesis import random_windows, saturate
from deepmr.networks import Ensemble, SequenceModel
from deepmr.regions import ALPHABET, Genome, one_hot
from deepmr.robust import weighted_median
from deepmr.rundir import versions
from deepmr.scale import logit_model

ROOT = Path(__file__).resolve().parents[1]
LEAST = 10  # barcodes
PLACES = (-150, -50, 50, 150)  # bp by which the stretch lies off the middle of its window
MASKS = 20  # draws of a network with dropout
BLOCK = 20  # bp that are drawn together in the bootstrap
REPLICATES = 1000

# Cell of the assay (Kircher et al. 2019, Table 1), and the cell whose DNase label it is compared with.
ELEMENTS = {
    "F9": ("HepG2", "HepG2"), "SORT1": ("HepG2", "HepG2"), "SORT1.2": ("HepG2", "HepG2"), "SORT1-flip": ("HepG2", "HepG2"),
    "PKLR-24h": ("K562", "K562"), "PKLR-48h": ("K562", "K562"), "FOXE1": ("HeLa", "HeLa-S3"),
    "BCL11A": ("HEL 92.1.7", "K562"), "GP1BA": ("HEL 92.1.7", "K562"), "HBB": ("HEL 92.1.7", "K562"), "HBG1": ("HEL 92.1.7", "K562"),
    "HNF4A": ("HEK293T", "HepG2"), "TERT-HEK": ("HEK293T", "HepG2"), "MYCrs6983267": ("HEK293T", "HepG2"),
    "TERT-GBM": ("SF7996", "HepG2"), "TERT-GSc": ("SF7996, control siRNA", "HepG2"), "TERT-GAa": ("SF7996, siRNA against GABPA", "HepG2"),
    "IRF4": ("SK-MEL-28", "HepG2"), "IRF6": ("HaCaT", "HepG2"), "MYCrs11986220": ("LNCaP", "HepG2")}

# Exposures that were named before any slope was seen: factors known to act on these elements.
NAMED = {"F9": ("HNF4A", "CEBPB", "FOXA1", "FOXA2"), "SORT1": ("CEBPB", "HNF4A", "FOXA1", "FOXA2"), "PKLR": ("GATA1", "SP1"),
         "TERT": ("GABP", "GABPA")}


def measured(path: Path, element: str) -> pd.DataFrame:
    "Position (0-based), ref, alt, by and byse of an element's substitutions with enough barcodes; then `start` and `sequence` as attributes."
    table = pd.read_csv(path, sep="\t", dtype={"Chrom": str}).dropna(subset=["Pos", "Ref", "Alt"])
    table = table[table.Element == element].assign(position=lambda t: t.Pos.astype(int) - 1)
    start, end = table.position.min(), table.position.max() + 1
    bases = table.drop_duplicates("position").set_index("position").Ref.reindex(range(start, end), fill_value="N")
    kept = table[(table.Barcodes >= LEAST) & (table.Alt != "-")].rename(columns={"Ref": "ref", "Alt": "alt", "Coefficient": "by"})
    kept = kept[["Chrom", "position", "ref", "alt", "by", "Barcodes", "pValue"]].drop_duplicates(["position", "alt"])
    told = kept[(kept.pValue > 1e-100) & (kept.pValue < 0.9)]
    unit = float(np.median(told.by.abs() / norm.isf(told.pValue / 2) * np.sqrt(told.Barcodes)))  # |by| / z is nearly this over sqrt(barcodes)
    kept = kept.assign(byse=unit / np.sqrt(kept.Barcodes)).sort_values(["position", "alt"]).reset_index(drop=True)
    kept.attrs = {"chrom": f"chr{table.Chrom.iloc[0]}", "start": int(start), "sequence": "".join(bases)}
    return kept


class View(NamedTuple):
    "The assayed stretch somewhere in a window, on one strand."

    x: np.ndarray  # (4, L)
    begin: int  # of the window on the chromosome
    flipped: bool  # the reverse complement?

    def rows(self, table: pd.DataFrame) -> np.ndarray:
        "Numbers of the measured mutations among the 3L of `saturate`."
        mutations, last = saturate(self.x), self.x.shape[1] - 1
        at = {(int(p), int(a)): i for i, (p, a) in enumerate(zip(mutations.position, mutations.alt))}
        where, alt = table.position.to_numpy() - self.begin, np.array([ALPHABET.index(a) for a in table.alt])
        return np.array([at[int(p), int(a)] for p, a in (zip(last - where, 3 - alt) if self.flipped else zip(where, alt))])


def views(table: pd.DataFrame, genome: Genome, length: int, random: bool = False) -> tuple[list[View], str]:
    "The assayed stretch at four places of a window, on both strands, and what is around it: 'genome', or 'random' where that is not at hand."
    chrom, first, bases = (table.attrs[k] for k in ("chrom", "start", "sequence"))
    middle, around, found = (first + len(bases) // 2) // 10 * 10, "random" if random else "genome", []
    for i, place in enumerate(PLACES):
        begin = middle - length // 2 + place
        at, known = first - begin, one_hot(bases, ambiguous="zero")[0]
        try:
            x = one_hot(genome.fetch(chrom, begin, begin + length))[0] if around == "genome" else None
        except InputError:
            return views(table, genome, length, random=True)
        if x is None:
            x = random_windows(len(PLACES), length, seed=0).numpy()[i]
            x[:, at:at + len(bases)] = np.where(known.sum(0) > 0, known, x[:, at:at + len(bases)])
        if (x[:, at:at + len(bases)] * known).sum() != known.sum():
            raise ValueError(f"{chrom}:{first}: the assay's reference differs from the genome's")
        found += [View(x, begin, False), View(x[::-1, ::-1].copy(), begin, True)]
    return found, around


def predict(engines: list[Any], x: np.ndarray) -> np.ndarray:
    "Effects (3L, O) of all mutations of a window without dropout: the mean over networks."
    tensor, mutations = torch.from_numpy(x).float(), saturate(x)
    return np.mean([engine.draw(tensor, mutations, {})[1].numpy() for engine in engines], 0, dtype=np.float64)


def dragonn(folder: Path) -> SequenceModel:
    "The network of Movva et al. 2019, trained on reporter assays, from its Keras file. Its 12 outputs are log expression."
    import h5py
    layers: list[torch.nn.Module] = []
    with h5py.File(folder / "pretrained.hdf5") as file:
        def weight(layer: str, name: str) -> torch.Tensor:
            return torch.from_numpy(file[f"{layer}/{layer}/{name}:0"][()])
        for i, width in ((1, 4), (2, 120), (3, 120)):
            conv, bn = torch.nn.Conv1d(width, 120, 5), torch.nn.BatchNorm1d(120, eps=1e-3)
            conv.weight.data, conv.bias.data = weight(f"conv1d_{i}", "kernel").permute(2, 1, 0).contiguous(), weight(f"conv1d_{i}", "bias")
            norm_ = f"batch_normalization_{i}"
            bn.weight.data, bn.bias.data = weight(norm_, "gamma"), weight(norm_, "beta")
            bn.running_mean, bn.running_var = weight(norm_, "moving_mean"), weight(norm_, "moving_variance")
            layers += [conv, torch.nn.ReLU(), bn, torch.nn.Dropout(0.1)]
        dense = torch.nn.Linear(133 * 120, 12)
        kernel = weight("dense_1", "kernel").reshape(133, 120, 12)  # Keras flattens position by position, PyTorch channel by channel
        dense.weight.data, dense.bias.data = kernel.permute(2, 1, 0).reshape(12, -1).contiguous(), weight("dense_1", "bias")
    labels = [f"{cell}_{promoter}_{r}" for cell in ("K562", "HepG2") for promoter in ("minP", "sv40p") for r in ("1", "2", "pooled")]
    return adapt(torch.nn.Sequential(*layers, torch.nn.Flatten(), dense), labels, 145, "MPRA-DragoNN")


def slid(engines: list[Any], table: pd.DataFrame, length: int, columns: list[int], stride: int = 10) -> np.ndarray:
    "Effects (M,) of the measured mutations by a short network: the mean over `columns` and over all its windows that hold the mutation."
    bases, first = table.attrs["sequence"], table.attrs["start"]
    total, n = np.zeros((len(bases), 4)), np.zeros((len(bases), 1))
    for at in sorted({*range(0, len(bases) - length + 1, stride), len(bases) - length}):
        x = one_hot(bases[at:at + length].replace("N", "A"))[0]
        effects, mutations = predict(engines, x)[:, columns].mean(1), saturate(x)
        total[at + mutations.position, mutations.alt] += effects
        n[at:at + length] += 1
    return np.array([(total / n)[p - first, ALPHABET.index(a)] for p, a in zip(table.position, table.alt)])


def resampled(position: np.ndarray, seed: int = 0) -> np.ndarray:
    "How often each mutation is drawn (R, M), in blocks of neighbouring positions."
    block = np.unique((position - position.min()) // BLOCK, return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    n = block.max() + 1
    return rng.multinomial(n, np.full(n, 1 / n), REPLICATES)[:, block]


def correlation(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    "Pearson's correlation under each row of weights (R, M); x may have one row a replicate."
    total = w.sum(-1, keepdims=True)
    dx, dy = (v - (w * v).sum(-1, keepdims=True) / total for v in (x, y))
    return (w * dx * dy).sum(-1) / np.sqrt((w * dx * dx).sum(-1) * (w * dy * dy).sum(-1))


def ranks(v: np.ndarray, w: np.ndarray) -> np.ndarray:
    "Mid-ranks of v (M,) in each sample with the counts w (R, M)."
    order, group = np.argsort(v, kind="stable"), rankdata(v, "dense") - 1
    sums = np.add.reduceat(w[:, order], np.unique(group[order], return_index=True)[1], axis=1)
    return (np.cumsum(sums, 1) - sums / 2)[:, group]


def agreement(x: np.ndarray, table: pd.DataFrame) -> dict[str, float]:
    "Pearson and Spearman of predicted and measured effects with 95 % intervals of a block bootstrap."
    y, w = table.by.to_numpy(), resampled(table.position.to_numpy())
    once = np.ones((1, len(y)), int)
    out = {}
    for name, f in (("pearson", lambda w: correlation(x, y, w)), ("spearman", lambda w: correlation(ranks(x, w), ranks(y, w), w))):
        low, high = np.nanquantile(f(w), [0.025, 0.975])
        out |= {name: float(f(once)[0]), f"{name}_low": float(low), f"{name}_high": float(high)}
    return out


def compare_all(model: SequenceModel, shared: Path) -> pd.DataFrame:
    "How well effects on DNase, and the published network's effects on expression, follow the measured effects."
    path, genome = shared / "mpra" / "saturation_mutagenesis_grch37.tsv.gz", Genome(shared / "hg19" / "hg19_segments.fa.gz")
    networks = list(model.members) if isinstance(model, Ensemble) else [model]
    cells = sorted({cell for _, cell in ELEMENTS.values()})
    columns = [model.index(f"{cell}_DNase_None") for cell in cells]
    ours, theirs = [make_engine(m, columns) for m in networks], dragonn(shared / "models" / "mpra_dragonn")
    other, rows, done = [make_engine(theirs, range(12))], [], dict[bytes, np.ndarray]()

    def kept(x: np.ndarray) -> np.ndarray:
        key = np.packbits(x.astype(bool)).tobytes()  # several assays have the same sequence
        if key not in done:
            done[key] = predict(ours, x)
        return done[key]

    for element, (assay, cell) in ELEMENTS.items():
        table = measured(path, element)
        about = {"element": element, "assay_cell": assay, "chrom": table.attrs["chrom"], "n": len(table),
                 "ceiling": float(np.sqrt(max(0, 1 - (table.byse ** 2).mean() / table.by.var())))}
        shown = [views(table, genome, model.length)]
        shown += [views(table, genome, model.length, random=True)] if shown[0][1] == "genome" else []
        for seen, around in shown:
            each = np.array([kept(v.x)[v.rows(table), cells.index(cell)] for v in seen])
            single = correlation(each, table.by.to_numpy(), np.ones_like(each))
            rows.append({**about, "model": model.name, "label": f"{cell}_DNase_None", "surroundings": around, **agreement(each.mean(0), table),
                         "one_view_lowest": single.min(), "one_view_highest": single.max()})
        group = [i for i, label in enumerate(theirs.labels) if label.startswith("K562" if cell == "K562" else "HepG2") and label.endswith("pooled")]
        effects = slid(other, table, theirs.length, group)
        said = theirs.labels[group[0]].split("_")[0] + ", both promoters"
        rows.append({**about, "model": theirs.name, "label": said, "surroundings": "none", **agreement(effects, table)})
        for r in rows[-len(shown) - 1:]:
            print(f"{element} {r['model']} {r['surroundings']}: {r['pearson']:.2f} {r['spearman']:.2f}", flush=True)
    return pd.DataFrame(rows)


def exposure_effects(engine: Any, sampler: Any, n_draws: int, x: np.ndarray, kept: dict[bytes, np.ndarray]) -> np.ndarray:
    "Effects (K, 3L, O) of all mutations of a window in each draw, from `kept` where another element has the same window."
    if (key := np.packbits(x.astype(bool)).tobytes()) not in kept:
        kept[key] = window_draws(engine, x, sampler, "assay", n_draws, workers=1).effects
    return kept[key]


def fits(labels: list[str], draws: np.ndarray, table: pd.DataFrame, named: set[str], opening: str) -> list[dict[str, object]]:
    "Slopes of the measured effects on those of each exposure: IVW with a block bootstrap for all, further estimators for the named ones."
    bx, bxse, rows = draws.mean(0), draws.std(0, ddof=1) / np.sqrt(len(draws)), []
    by, byse, w = table.by.to_numpy(), table.byse.to_numpy(), resampled(table.position.to_numpy())
    weights = w / byse ** 2
    for i, label in enumerate(labels):
        x, s = bx[:, i], bxse[:, i]
        low, high = np.nanquantile((weights * x * by).sum(1) / (weights * x * x).sum(1), [0.025, 0.975])
        rho = correlation(x, by, np.ones((1, len(x))))[0]
        found = {"ivw": ivw(x, s, by, byse)}
        if label in named or label == opening:
            found |= {"egger": egger(x, s, by, byse), "divw": divw(x, s, by, byse), "weighted median": weighted_median(x, s, by, byse)}
            if label != opening:
                o = labels.index(opening)
                found["ivw beside DNase"] = mvmr(bx[:, [i, o]], bxse[:, [i, o]], by, byse, names=[label, opening])[label]
        for method, e in found.items():
            blocks = {"block_low": low, "block_high": high} if method == "ivw" else {}
            rows.append({"exposure": label, "named": label in named, "method": method, "estimate": e.estimate, "se": e.se, "ci_low": e.ci_low,
                         "ci_high": e.ci_high, **blocks, "pearson": rho, "mean_f": e.diagnostics.get("mean_f"), "notes": ",".join(e.codes)})
    return rows


def slopes(model: SequenceModel, shared: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    "Measured expression on predicted binding, for each element, exposure and estimator; and what `knock_down` makes of TERT."
    path, genome = shared / "mpra" / "saturation_mutagenesis_grch37.tsv.gz", Genome(shared / "hg19" / "hg19_segments.fa.gz")
    rows, kept, knocked = [], dict[bytes, np.ndarray](), {}
    (sampler, n_draws), groups = draw_source(model, 0, None if isinstance(model, Ensemble) else MASKS), {}
    for element in ELEMENTS:
        groups.setdefault(element.split("-")[0].split(".")[0], []).append(element)
    for name, factors in NAMED.items():
        cell = ELEMENTS[groups[name][0]][1]
        named = {label for label in model.addresses if label.split("_")[1].split("#")[0] in factors and (label.startswith(cell) or name == "TERT")}
        labels = [label for label in model.addresses if label.startswith(f"{cell}_") or label in named]
        engine = make_engine(model, [model.index(label) for label in labels])
        kept.clear()
        for element in groups[name]:
            table = measured(path, element)
            seen, around = views(table, genome, model.length)
            parts = [exposure_effects(engine, sampler, n_draws, v.x, kept)[:, v.rows(table)] for v in seen]
            draws = np.mean(parts, 0, dtype=np.float64)
            about = {"element": element, "assay_cell": ELEMENTS[element][0], "surroundings": around, "n": len(table)}
            rows += [{**about, **row} for row in fits(labels, draws, table, named, f"{cell}_DNase_None")]
            knocked[element] = table.assign(row=range(len(table))), draws.mean(0)
            print(f"{element}: {len(labels)} exposures", flush=True)
    return pd.DataFrame(rows), knock_down(knocked, labels, named)


def knock_down(known: dict[str, tuple[pd.DataFrame, np.ndarray]], labels: list[str], named: set[str]) -> pd.DataFrame:
    "Slopes at TERT with the siRNA against GABPA over those with the control, the same mutations in both; last, all measured effects on each other."
    (treated, bx), (control, _) = known["TERT-GAa"], known["TERT-GSc"]
    both = treated.merge(control, on=["position", "alt"], suffixes=("", "_control"))
    x, w = bx[both.row], resampled(both.position.to_numpy())
    once, rows = np.ones((1, len(both))), []
    y, y0 = both.by.to_numpy(), both.by_control.to_numpy()
    for i, label in [*enumerate(labels), (-1, "all measured effects")]:
        on = y0 if i < 0 else x[:, i]
        ratio, drawn = ((v * on * y).sum(1) / (v * on * y0).sum(1) for v in (once, w))
        low, high = np.nanquantile(drawn, [0.025, 0.975])
        rows.append({"exposure": label, "named": label in named, "n": len(both), "ratio": ratio[0], "low": low, "high": high})
    return pd.DataFrame(rows)


def main(spec: str = "hepg2", shared: str = str(ROOT.parent / "shared"), results: str = str(ROOT / "results" / "experiments")) -> None:
    begun, out = time.process_time(), Path(results)
    torch.set_num_threads(1)
    model = load_model(spec)
    logits = logit_model(model)
    if logits is None:
        raise InputError(f"model: found no last sigmoid in {spec}, expected a network whose logits can be had")
    logits.name = Path(spec).stem
    out.mkdir(parents=True, exist_ok=True)
    compare_all(logits, Path(shared)).round(4).to_csv(out / "correlations.csv", index=False)
    table, knocked = slopes(logits, Path(shared))
    table.round(5).to_csv(out / "slopes.csv", index=False)
    knocked.round(4).to_csv(out / "knock_down.csv", index=False)
    record = {"command": f"python tools/store_experiments.py {Path(spec).name}", "model": logits.name,
              "networks": len(getattr(model, "members", [0])), "labels": len(model.labels), "least_barcodes": LEAST, "block_bp": BLOCK,
              "replicates": REPLICATES, "places": PLACES, "versions": versions(),
              "cpu_seconds": round(time.process_time() - begun)}
    (out / "record.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
