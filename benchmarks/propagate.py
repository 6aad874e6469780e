"""How much faster propagated mutagenesis is than the plain engine.

    python benchmarks/propagate.py table      # networks of several shapes: seconds, ratio, arithmetic, share of the peak
    python benchmarks/propagate.py growth     # with length, width, draws and windows
    python benchmarks/propagate.py sources    # what each of a stage's three sources is worth
    python benchmarks/propagate.py deepsea    # one window, 50 draws, 37 labels, all cores: wall time and peak memory
    python benchmarks/propagate.py peers      # other tools on the same network, where they are installed

Each writes its part of benchmarks/results/propagate.json. Times are CPU seconds of one thread unless it says wall.
"""

import argparse
import contextlib
import json
import os
import platform
import resource
import statistics
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from deepmr import propagate, stages
from deepmr.dropout import MaskSampler, shared_masks
from deepmr.models import load_model
from deepmr.mutagenesis import predict_mutations, random_windows, saturate
from deepmr.networks import ConvNet, SequenceModel
from deepmr.propagate import Propagator

RESULTS = Path(__file__).parent / "results" / "propagate.json"
DRAWS = 50


# ------------------------------------------------------------------ networks
class Residual(nn.Module):
    def __init__(self, channels, dilation):
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        return x + self.drop(torch.relu(self.conv(x)))


def conv(i, o, k, pool=0, p=None, norm=False, padding=0):
    layers = [nn.Conv1d(i, o, k, padding=padding), *([nn.BatchNorm1d(o)] if norm else []), nn.ReLU()]
    layers += [nn.MaxPool1d(pool)] if pool else []
    return layers + ([nn.Dropout(p)] if p else [])


def deepsea(labels=37):
    return nn.Sequential(
        *conv(4, 320, 8, 4, 0.2),
        *conv(320, 480, 8, 4, 0.2),
        *conv(480, 960, 8, 0, 0.5),
        nn.Flatten(),
        nn.Linear(960 * 53, 925),
        nn.ReLU(),
        nn.Linear(925, labels),
        nn.Sigmoid(),
    )


def beluga(labels=37, length=2000):
    last = ((length - 14) // 4 - 14) // 4 - 14
    return nn.Sequential(
        *conv(4, 320, 8),
        *conv(320, 320, 8, p=0.2),
        nn.MaxPool1d(4),
        *conv(320, 480, 8),
        *conv(480, 480, 8, p=0.2),
        nn.MaxPool1d(4),
        *conv(480, 640, 8),
        *conv(640, 640, 8, p=0.5),
        nn.Flatten(),
        nn.Linear(640 * last, 2003),
        nn.ReLU(),
        nn.Linear(2003, labels),
        nn.Sigmoid(),
    )


def basset(labels=20):
    return nn.Sequential(
        *conv(4, 300, 19, 3, 0.1, True, 9),
        *conv(300, 200, 11, 4, 0.1, True, 5),
        *conv(200, 200, 7, 4, 0.1, True, 3),
        nn.Flatten(),
        nn.Linear(200 * 12, 1000),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(1000, 1000),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(1000, labels),
        nn.Sigmoid(),
    )


def dilated(labels=2, channels=64):
    return nn.Sequential(
        nn.Conv1d(4, channels, 21, padding=10),
        nn.ReLU(),
        nn.Dropout(0.1),
        *[Residual(channels, 2**i) for i in range(1, 9)],
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(channels, labels),
    )


class Added(nn.Module):
    "A dilated convolution whose input is added before or after its ReLU."

    def __init__(self, channels, dilation, before):
        super().__init__()
        self.conv, self.before = nn.Conv1d(channels, channels, 3, padding=dilation, dilation=dilation), before

    def forward(self, x):
        return torch.relu(self.conv(x) + x) if self.before else x + torch.relu(self.conv(x))


class BPNet(nn.Module):
    """The counts of bpnet-lite's BPNet (64 filters, 8 dilated layers, no control tracks), from its description.

    The profile's convolution is left out, as it takes no part in the counts.
    """

    def __init__(self, channels=64, layers=8):
        super().__init__()
        self.cut = 47 + sum(2**i for i in range(1, layers + 1)) - 37
        self.first = nn.Conv1d(4, channels, 21, padding=10)
        self.tower = nn.Sequential(*[Added(channels, 2**i, False) for i in range(1, layers + 1)])
        self.counts = nn.Linear(channels, 1)

    def forward(self, x):
        y = self.tower(torch.relu(self.first(x)))
        return self.counts(y[:, :, self.cut : y.shape[2] - self.cut].mean(2))


def grelu(channels=64):
    "gReLU's DilatedConvModel with its defaults: a stem, seven dilated layers, ends cut off by half the receptive field, one task."
    dilations = [2 * 2**i for i in range(7)]
    cut = (21 + sum(2 * d for d in dilations)) // 2
    tower = [Added(channels, d, True) for d in dilations]
    stem = [nn.Conv1d(4, channels, 21, padding="same"), nn.ReLU()]
    return nn.Sequential(*stem, *tower, nn.ConstantPad1d(-cut, 0), nn.Conv1d(channels, 1, 1), nn.AdaptiveAvgPool1d(1), nn.Flatten())


def dragonn():
    "MPRA-DragoNN's ConvModel: three convolutions, each with normalisation after its ReLU."
    layers = [[nn.Conv1d(4 if i == 0 else 120, 120, 5), nn.ReLU(), nn.BatchNorm1d(120), nn.Dropout(0.1)] for i in range(3)]
    return nn.Sequential(*[m for some in layers for m in some], nn.Flatten(), nn.Linear(133 * 120, 12))


class Central(nn.Module):
    "The central 600 bp, and beside the tower each first filter's strongest match in the central 300 bp."

    def __init__(self, labels=661):
        super().__init__()
        self.c1, self.c2, self.c3 = nn.Conv1d(4, 256, 20), nn.Conv1d(256, 128, 6), nn.Conv1d(128, 160, 4)
        self.drops = nn.ModuleList(nn.Dropout(p) for p in (0.1, 0.1, 0.2, 0.3))
        self.hidden, self.last = nn.Linear(160 * 6, 256), nn.Linear(256 + 256, labels)

    def forward(self, x):
        first = F.max_pool1d(torch.relu(self.c1(x[:, :, 200:800])), 8)
        strongest = first[:, :, 18:55].amax(2)
        y = self.drops[1](F.max_pool1d(torch.relu(self.c2(self.drops[0](first))), 4))
        y = self.drops[2](F.max_pool1d(torch.relu(self.c3(y)), 2)).flatten(1)
        y = self.drops[3](torch.relu(self.hidden(y)))
        return torch.sigmoid(self.last(torch.cat([y, strongest], 1)))


NETWORKS = {
    "Central": (Central, 1000),
    "BPNet": (BPNet, 2114),
    "gReLU dilated": (grelu, 2114),
    "MPRA-DragoNN": (dragonn, 145),
    "DeepSEA": (deepsea, 1000),
    "Beluga-like": (beluga, 2000),
    "Basset-like": (basset, 600),
    "dilated residual": (dilated, 2114),
}


def random_model(name, make, length):
    "Weights that keep activations at a steady size, and batch statistics that do something."
    torch.manual_seed(0)
    module = make()
    for m in module.modules():
        if isinstance(m, (nn.Conv1d, nn.Linear)):
            nn.init.kaiming_normal_(m.weight)
        if isinstance(m, nn.BatchNorm1d):
            m.running_mean.normal_(), m.running_var.uniform_(0.5, 2), m.weight.data.uniform_(-1, 2)
    with torch.no_grad():
        labels = module.eval()(torch.zeros(1, 4, length)).shape[1]
    return SequenceModel(module, [f"label {i}" for i in range(labels)], length, name)


def get_model(name):
    if name == "default (hepg2)":
        return load_model("hepg2-single"), range(20)
    model = random_model(name, *NETWORKS[name])
    return model, range(min(37, len(model.labels)))


# ------------------------------------------------------------------ measuring
class Arithmetic(TorchDispatchMode):
    "Counts the multiply-adds of matrix products and convolutions."

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        if name in ("addmm", "addmm_", "baddbmm", "baddbmm_"):
            self.count += args[1].numel() * args[2].shape[-1]
        elif name in ("mm", "bmm"):
            self.count += args[0].numel() * args[1].shape[-1]
        elif name == "convolution":
            self.count += out.numel() * args[1][0].numel()
        return out


def seconds(f):
    "CPU seconds of this thread."
    start = time.thread_time()
    f()
    return time.thread_time() - start


def sgemm_peak():
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return 2 * 1024**3 / min(seconds(lambda: a @ b) for _ in range(10))


def passing(model, masks):
    "In which a network passes under masks; without any, as it is, watched by nobody."
    return shared_masks(model.module, masks) if masks else contextlib.nullcontext()


def plain_batch(model, x, mutations, masks):
    "The batch size at which a plain forward pass takes the least time for a mutant."
    best = {}
    with passing(model, masks), torch.no_grad():
        for n in (1, 2, 4, 8, 16, 32, 64, 128):
            batch = mutations[:n].apply(x)
            model.module(batch)
            best[n] = min(seconds(lambda: model.module(batch)) for _ in range(2)) / n
            if best[n] * n > 5:
                break
    return min(best, key=best.get)


def plain_seconds(model, x, mutations, masks, batch):
    "One draw of the plain engine: batches of a part of the mutations, at least a second's worth, extrapolated to all."
    with passing(model, masks), torch.no_grad():
        done, spent = 0, 0.0
        while spent < 1 and done < len(mutations):
            mutants = mutations[done : done + batch].apply(x)
            spent += seconds(lambda: model.module(mutants))
            done += len(mutants)
    return spent / done * len(mutations)


def compare(name, runs):
    "A row of the table."
    model, outputs = get_model(name)
    x = random_windows(1, model.length, seed=1)[0]
    mutations, masks = saturate(x.numpy()), MaskSampler(model)("window", 0)
    engine = Propagator(model, outputs)
    window = engine.window(x, mutations)
    window.draw(masks)
    with Arithmetic() as carried:
        window.draw(masks)
    with Arithmetic() as one, torch.no_grad():
        model.module(x[None])
    batch, rows = plain_batch(model, x, mutations, masks), []
    for _ in range(runs):
        rows.append(
            (
                plain_seconds(model, x, mutations, masks, batch),
                seconds(lambda: window.draw(masks)),
                seconds(lambda: engine.window(x, mutations)),
                sgemm_peak(),
            )
        )
    plain, drawn, opened, peak = (statistics.median(r[i] for r in rows) for i in range(4))
    per_draw = [(p, d + w / DRAWS) for p, d, w, _ in rows]
    some = np.unique(
        np.r_[
            0:30,
            np.random.default_rng(0).integers(0, len(mutations), 60),
            len(mutations) - 30 : len(mutations),
        ]
    )
    with shared_masks(model.module, masks):
        reference, mutants = predict_mutations(model, x, mutations[some], outputs)
    off = float((window.draw(masks)[1][some] - (mutants - reference)).abs().max())
    return {
        "network": name,
        "window_bp": model.length,
        "mutations": len(mutations),
        "outputs": len(outputs),
        "plain_batch": batch,
        "plain_s": plain,
        "propagated_s": statistics.median(d for _, d in per_draw),
        "window_s": opened,
        "ratio": statistics.median(p / d for p, d in per_draw),
        "ratio_lowest": min(p / d for p, d in per_draw),
        "ratio_highest": max(p / d for p, d in per_draw),
        "ratio_single_draw": statistics.median(p / (d + w) for p, d, w, _ in rows),
        "flop_ratio": one.count * len(mutations) / carried.count,
        "plain_share_of_peak": 2 * one.count * len(mutations) / plain / peak,
        "propagated_share_of_peak": 2 * carried.count / drawn / peak,
        "sgemm_gflops": peak / 1e9,
        "largest_difference": off,
        "largest_prediction": float(mutants.abs().max()),
        "runs": runs,
    }


# ------------------------------------------------------------------ parts
def table(args):
    rows = []
    for name in args.networks or [
        "DeepSEA",
        "Beluga-like",
        "default (hepg2)",
        "Basset-like",
        "dilated residual",
    ]:
        r = compare(name, args.runs)
        rows.append(r)
        print(
            f"{r['network']:18} {r['window_bp']:5} bp  plain {r['plain_s']:7.2f} s  propagated {r['propagated_s']:7.3f} s  "
            f"ratio {r['ratio']:5.1f} ({r['ratio_lowest']:.1f}-{r['ratio_highest']:.1f})  FLOP ratio {r['flop_ratio']:5.1f}  "
            f"share of sgemm peak {r['plain_share_of_peak']:.0%} plain, {r['propagated_share_of_peak']:.0%} propagated  "
            f"largest difference {r['largest_difference']:.0e}",
            flush=True,
        )
    return {"networks": rows}


def timed_draws(model, x, draws, runs):
    "CPU seconds of a window and its draws."
    engine, sampler = Propagator(model, range(min(20, len(model.labels))), check=False), MaskSampler(model)
    mutations = saturate(x.numpy())

    def work():
        window = engine.window(x, mutations)
        for i in range(draws):
            window.draw(sampler("window", i))

    engine.window(x, mutations).draw(sampler("window", 0))
    return statistics.median(seconds(work) for _ in range(runs))


def growth(args):
    rows = []

    def add(what, value, spent):
        rows.append({"grows": what, "value": value, "seconds": spent})
        print(f"{what:8} {value:5}  {spent:.3f} s", flush=True)

    net = lambda **kw: SequenceModel(ConvNet(20, **kw), [str(i) for i in range(20)], kw.get("length", 1000))
    for length in (500, 1000, 2000, 4000):
        add("length", length, timed_draws(net(length=length), random_windows(1, length, 1)[0], 5, args.runs) / 5)
    for width in (64, 128, 256, 512):
        model = net(channels=(width, width, width * 3 // 2))
        add("width", width, timed_draws(model, random_windows(1, 1000, 1)[0], 5, args.runs) / 5)
    model = load_model("hepg2-single")
    for draws in (1, 5, 25, 50):
        add("draws", draws, timed_draws(model, random_windows(1, 1000, 1)[0], draws, args.runs))
    for windows in (1, 2, 4):
        add("windows", windows, sum(timed_draws(model, x, 5, 1) for x in random_windows(windows, 1000, 1)))
    return {"growth": rows}


def sources(args):
    """A draw without one of a stage's sources, as a multiple of a draw with all three.

    Without TapSource the rules take its place, without DroppedSource the bands, and without BandSource DroppedSource.
    null: the network does not use the source.
    """
    whole, rows = propagate.as_stage, []

    def only_known(ctx, graph, node, env):
        return whole(ctx, graph, node, env) if env.get(("known", node)) is not None else None

    without = {
        "all three": lambda: mock.patch.object(propagate, "as_stage", whole),
        "TapSource": lambda: mock.patch.object(propagate, "as_stage", only_known),
        "DroppedSource": lambda: mock.patch.object(stages.BeforeDropout, "bands_pay", return_value=True),
        "BandSource": lambda: mock.patch.object(stages.BeforeDropout, "bands_pay", return_value=False),
    }
    for name in args.networks or ["default (hepg2)", "DeepSEA"]:
        model, outputs = get_model(name)
        x = random_windows(1, model.length, seed=1)[0]
        mutations, masks, engine = saturate(x.numpy()), MaskSampler(model)("window", 0), Propagator(model, outputs, check=False)
        windows, spent = {}, {key: [] for key in without}
        for key, patch in without.items():
            with patch():
                windows[key] = engine.window(x, mutations)
                windows[key].draw(masks)
        for _ in range(args.runs):
            for key, patch in without.items():
                with patch():
                    spent[key].append(seconds(lambda: windows[key].draw(masks)))
        whole_s = spent.pop("all three")
        slower = {key: statistics.median(a / b for a, b in zip(times, whole_s)) for key, times in spent.items()}
        kinds = {key: [type(v) for _, _, known in w.blocks for k, v in known.items() if isinstance(k, tuple)] for key, w in windows.items()}
        slower |= {key: None for key in ("DroppedSource", "BandSource") if kinds[key] == kinds["all three"]}
        rows.append({"network": name, "draw_s": statistics.median(whole_s), "times_slower_without": slower, "runs": args.runs})
        listed = ", ".join(f"{k} {t:.2f}" if t else f"{k} not used" for k, t in slower.items())
        print(f"{name:18} a draw {rows[-1]['draw_s']:.3f} s; times slower without {listed}", flush=True)
    return {"sources": rows}


def all_cores(model, outputs, windows, draws, workers):
    "Wall seconds of all draws of some windows, one draw a thread; no time is counted for making the engine."
    engine, sampler = Propagator(model, outputs, check=False), MaskSampler(model)
    start = time.perf_counter()
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for i, x in enumerate(random_windows(windows, model.length, 1)):
            window = engine.window(x, saturate(x.numpy()))
            list(pool.map(lambda d: window.draw(sampler(str(i), d))[1].sum(), range(draws)))
    return time.perf_counter() - start


def run_deepsea(args):
    model = random_model("DeepSEA", *NETWORKS["DeepSEA"])
    spent = [all_cores(model, range(37), 1, DRAWS, args.workers) for _ in range(args.runs)]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"DeepSEA, 1 window, {DRAWS} draws, 37 labels, {args.workers} threads: median {statistics.median(spent):.1f} s wall "
        f"({min(spent):.1f}-{max(spent):.1f}), peak memory {memory:.2f} GB"
    )
    return {
        "deepsea": {
            "wall_s": statistics.median(spent),
            "all_wall_s": spent,
            "peak_gb": memory,
            "workers": args.workers,
        }
    }


def peers(args):
    """What other tools take for one window of DeepSEA's shape, as they come: without dropout.

    tangermeme's fast path (1.6) carries changes as deepmr does, and is the tool's own choice where it verifies and
    pays. yuzu runs a DeepSEA of its own with padding. fastISM is timed by fastism_peer.py.
    """
    rows = []

    def add(tool, f, runs=args.runs):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            spent = [seconds(f) for _ in range(runs)]
        note = "; ".join({str(w.message).splitlines()[0] for w in said})
        rows.append({"tool": tool, "seconds": statistics.median(spent), "runs": runs, "note": note})
        print(f"{tool:60} {statistics.median(spent):7.2f} s  {note}", flush=True)

    model, x = random_model("DeepSEA", *NETWORKS["DeepSEA"]), random_windows(1, 1000, 1)
    for peer in (peer_tangermeme, peer_yuzu):
        try:
            peer(add, model, x)
        except ImportError as error:
            print(f"{peer.__name__}: not installed here ({error})")
    engine, sampler = Propagator(model, check=False), MaskSampler(model)
    mutations, masks = saturate(x[0].numpy()), [sampler("window", i) for i in range(5)]
    window = engine.window(x[0], mutations)
    add("deepmr, one window and one draw of dropout", lambda: engine.window(x[0], mutations).draw(masks[0]))
    add("deepmr, each further draw", lambda: window.draw(masks[1]))
    stored = json.loads(RESULTS.read_text()).get("peers", []) if RESULTS.exists() else []
    names = {r["tool"].split()[0] for r in rows}  # a tool that is not installed here keeps the row it has
    return {"peers": rows + [r for r in stored if r["tool"].split()[0] not in names and r["seconds"]]}


def peer_tangermeme(add, model, x):
    import tangermeme
    from tangermeme.saturation_mutagenesis import saturation_mutagenesis

    def saturation(fast, n):
        saturation_mutagenesis(
            model.module, x, start=0, end=n, device="cpu", batch_size=32, raw_outputs=True, fast=fast
        )

    name = f"tangermeme {tangermeme.__version__}"
    add(f"{name}, fast=False, 50 of 1,000 positions", lambda: saturation(False, 50))
    add(f"{name}, fast=True, all positions", lambda: saturation(True, 1000))


def peer_yuzu(add, model, x):
    from yuzu.models import DeepSEA
    from yuzu.precompute import precompute
    from yuzu.yuzu_ism import yuzu_ism

    net, known = DeepSEA(4, 1000).eval(), []
    add("yuzu 0.0.1, once a network", lambda: known.append(precompute(net, seq_len=1000, alpha=1.2)), runs=1)
    add("yuzu 0.0.1, each window", lambda: yuzu_ism(net, x.numpy(), known[0]))


def main():
    kinds = {"table": table, "growth": growth, "sources": sources, "deepsea": run_deepsea, "peers": peers}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=kinds)
    parser.add_argument("--runs", type=int, default=5, help="repetitions of which the median is taken")
    parser.add_argument("--networks", nargs="*", help="rows of the table to compute (default: all)")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    new = kinds[args.part](args)
    if args.networks and "networks" in new:
        fresh = {r["network"]: r for r in new["networks"]}
        new["networks"] = [fresh.pop(r["network"], r) for r in stored.get("networks", [])] + list(
            fresh.values()
        )
    stored.update(new)
    stored.setdefault("commands", {})[args.part] = {
        "command": "python benchmarks/" + " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
