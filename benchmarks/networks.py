"""Networks of others: what a user writes, whether effects are right, which engine is taken, and how much faster it is than plain passes.

    python benchmarks/networks.py              # all of which the packages are there
    python benchmarks/networks.py BPNet BERT   # these alone; the others' rows stay
    python benchmarks/networks.py long         # a run of SpliceAI's shape with 10 kb of context: seconds and peak memory, to results/long.json

Writes benchmarks/results/networks.csv. All networks are timed in one way. A ratio compares CPU seconds of one thread with batched forward
passes at the batch size that is fastest for them, of which a second's worth is measured and the rest extrapolated. Building an engine is not
counted. `at 1` is one pass of a new window with the weights as shipped, by the engine that a run by default takes, against passes without
masks. `at 50` is fifty draws of masks, from the median of five, against passes under masks. Networks without dropout have no second draw of
their own. `plain_gmac` and `fast_gmac` are thousand millions of multiply-adds for one pass of a window, as counted (`04d_choice`), also where
the fast way is then not taken. `work` is their ratio: what arithmetic alone allows, before the numbers that do not move are left out. `off` is
the largest difference to plain passes for 90 mutations, as a share of the largest effect.
"""

import importlib
import json
import resource
import statistics
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from propagate import plain_batch, plain_seconds, seconds
from torch import nn

from deepmr.adapters import adapt
from deepmr.choice import WHOLE, built, fast_work, plain_work
from deepmr.dropout import MaskSampler
from deepmr.effects import engine_name, make_engine, mutation_effects
from deepmr.models import DeepSEA, load_model
from deepmr.mutagenesis import random_windows, saturate

RESULTS = Path(__file__).parent / "results" / "networks.csv"
DRAGONN = Path(__file__).resolve().parents[2] / "shared" / "models" / "mpra_dragonn" / "pretrained.hdf5"


class Skip(nn.Module):
    "A residual block of SpliceAI: two dilated convolutions behind batch normalisation."

    def __init__(self, channels, width, dilation):
        super().__init__()
        around = dilation * (width - 1) // 2
        part = lambda: [nn.BatchNorm1d(channels), nn.ReLU(), nn.Conv1d(channels, channels, width, dilation=dilation, padding=around)]
        self.body = nn.Sequential(*part(), *part())

    def forward(self, x):
        return x + self.body(x)


def splice(channels=32):
    "SpliceAI's shape with 80 bp of context on either side: (N, 4, L) to (N, 3, L)."
    return nn.Sequential(nn.Conv1d(4, channels, 1), *(Skip(channels, 11, d) for d in (1, 1, 1, 1)), nn.Conv1d(channels, 3, 1), nn.Softmax(1))


def splice_10k(channels=32):
    "SpliceAI's shape with 10 kb of context: sixteen blocks of widths 11 to 41 and dilations 1 to 25, (N, 4, L) to (N, 3, L)."
    blocks = [Skip(channels, width, d) for width, d in ((11, 1), (11, 4), (21, 10), (41, 25)) for _ in range(4)]
    return nn.Sequential(nn.Conv1d(4, channels, 1), *blocks, nn.Conv1d(channels, 3, 1), nn.Softmax(1))


def hepg2():
    return "load_model('hepg2')", "built in", load_model("hepg2").members[0]


def deepsea():
    return "load_model('deepsea')", "independent port", adapt(DeepSEA(), [f"l{i}" for i in range(919)], 1000, "DeepSEA", alphabet="AGCT")


def beluga():
    "Beluga's published shape, of 2,002 labels and 2 kb (Zhou et al. 2018), with random weights."
    conv = lambda a, b: [nn.Conv2d(a, b, (1, 8)), nn.ReLU()]
    end = lambda p: [nn.Dropout(p), nn.MaxPool2d((1, 4))]
    net = nn.Sequential(*conv(4, 320), *conv(320, 320), *end(.2), *conv(320, 480), *conv(480, 480), *end(.2), *conv(480, 640), *conv(640, 640),
                        nn.Dropout(.5), nn.Flatten(), nn.Linear(67840, 2003), nn.ReLU(), nn.Linear(2003, 2002), nn.Sigmoid())
    line = "adapt(net, 'labels.txt', 2000, axes='NC1L', alphabet='AGCT')"
    return line, "published shape", adapt(net, [f"l{i}" for i in range(2002)], 2000, "Beluga", axes="NC1L", alphabet="AGCT")


def dragonn():
    return "load_model('keras:pretrained.hdf5')", "published weights, by hand", load_model(f"keras:{DRAGONN}")


def bpnet():
    from bpnetlite import BPNet
    net = BPNet(n_outputs=2, n_control_tracks=2, verbose=False)
    line = "adapt(net, ['count'], 2114, inputs=[tracks], outputs=1, output='log count')"
    return line, "bpnet-lite's class", adapt(net, ["count"], 2114, "BPNet", inputs=[torch.zeros(2, 2114)], outputs=1, output="log count")


def chrombpnet():
    from bpnetlite import BPNet, ChromBPNet
    part = lambda filters: BPNet(n_filters=filters, n_layers=8, n_outputs=1, n_control_tracks=0, verbose=False)
    line = "adapt(net, ['count'], 2114, outputs=1, output='log count', output_axes='N1')"
    net = ChromBPNet(part(32), part(64))
    with torch.no_grad():
        counts = net(torch.zeros(2, 4, 2114))[1]
    axes = "NT" if counts.dim() == 2 else "N"
    return line.replace("N1", axes), "bpnet-lite's class", adapt(net, ["count"], 2114, "ChromBPNet", outputs=1, output="log count", output_axes=axes)


def grelu():
    from grelu.model.models import ConvModel
    net = ConvModel(n_tasks=2, stem_channels=64, stem_kernel_size=15, n_conv=6, channel_init=64, dilation_mult=2, residual=True, norm=True,
                    dropout=0.1, final_pool_func="avg")
    return "load_model('grelu:best.ckpt')", "gReLU's class", adapt(net, ["TF", "open"], 1000, "gReLU", output_axes="NT1", output="logit")


def enformer():
    from enformer_pytorch import Enformer
    net = Enformer.from_hparams(dim=96, depth=2, heads=4, target_length=8, output_heads={"human": 4}, num_downsamples=5, dim_divisible_by=12)
    line = "adapt(net, tasks, 512, axes='NLC', outputs='human', output_axes='NPT', reduce='sum', output='count')"
    return line, "enformer-pytorch's class", adapt(net, list("abcd"), 512, "Enformer", axes="NLC", outputs="human", output_axes="NPT", reduce="sum",
                                                   output="count")


def borzoi():
    from borzoi_pytorch import Borzoi
    from borzoi_pytorch.config_borzoi import BorzoiConfig
    net = Borzoi(BorzoiConfig(dim=1536, depth=1, heads=2, attn_dim_key=8, attn_dim_value=16, bins_to_return=16))
    line = "adapt(net, id2label, 4096, outputs=lambda y: y[:, [0, 5]].sum(2), output='count')"
    return line, "borzoi-pytorch's class", adapt(net, ["RNA", "CAGE"], 4096, "Borzoi", outputs=lambda y: y[:, [0, 5]].sum(2), output="count")


def bert():
    from transformers import BertConfig, BertForSequenceClassification
    net = BertForSequenceClassification(BertConfig(vocab_size=10, hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=128,
                                                   max_position_embeddings=512))
    options = dict(encode=lambda x: x.argmax(1) + 5, outputs="logits", output="logit")
    line = "adapt(net, net.config.id2label, 200, encode=lambda x: x.argmax(1) + 5, outputs='logits', output='logit')"
    return line, "transformers' class", adapt(net, net.config.id2label, 200, "BERT", **options)


def spliceai():
    line = "adapt(net, ['acceptor', 'donor'], 600, outputs=lambda y: torch.stack([y[:, 1, 240], y[:, 2, 360]], 1))"
    return line, "look-alike", adapt(splice(), ["acceptor", "donor"], 600, "SpliceAI",
                                     outputs=lambda y: torch.stack([y[:, 1, 240], y[:, 2, 360]], 1))


NETWORKS = {"default (hepg2)": hepg2, "DeepSEA": deepsea, "Beluga": beluga, "MPRA-DragoNN (Keras)": dragonn, "BPNet": bpnet, "ChromBPNet": chrombpnet,
            "gReLU, dilated": grelu, "SpliceAI-like": spliceai, "BERT on bases": bert, "Enformer, small": enformer, "Borzoi, small": borzoi}


def multiply_adds(model, engine):
    "Multiply-adds of one draw of a window: plain passes, and propagated differences. The reference passes in full, in both."
    one, mutants = plain_work(model)
    if engine is None:
        return (one.products + mutants.products) / WHOLE, np.nan
    once, each = fast_work(engine.carrier, engine.block)
    return (one.products + mutants.products) / WHOLE, one.products / WHOLE + once.products + each.products


def row(name, runs=3, draws=5):
    torch.manual_seed(0)
    line, by, model = NETWORKS[name]()
    columns = list(range(min(2, len(model.labels))))
    x = random_windows(2 + runs, model.length, seed=1)
    mutations, some = saturate(x[0].numpy()), np.random.default_rng(0).permutation(3 * model.length)[:90]
    try:
        sampler = None if name.startswith("default") else MaskSampler(model)  # an ensemble's members pass without masks
    except ValueError:
        sampler = None
    masks = lambda draw: sampler("window", draw) if sampler else {}
    with warnings.catch_warnings(action="ignore"):
        plain, once = make_engine(model, columns, "plain"), make_engine(model, columns, "auto", 1)
        engine = make_engine(model, columns, "auto") if sampler else once
    fast = engine_name(once) == "propagate"
    off = max(float((each.draw(x[0], mutations[some], drawn)[1] - effects).abs().max() / effects.abs().max())
              for each, drawn in ((once, {}), (engine, masks(0))) for effects in (plain.draw(x[0], mutations[some], drawn)[1],))
    many, at_1, at_50 = bool(sampler) and engine_name(engine) == "propagate", [], []
    if fast:
        once.draw(x[-1], saturate(x[-1].numpy()), {})  # memory that further windows use again
    batches = {taken: plain_batch(model, x[0], mutations, masks(0) if taken else {}) for taken, at in ((False, fast), (True, many)) if at}
    for run in range(runs if fast or many else 0):
        window, other = x[run + 1], saturate(x[run + 1].numpy())
        if fast:
            plainly = plain_seconds(model, x[0], mutations, {}, batches[False])
            at_1.append(plainly / seconds(lambda: once.draw(window, other, {})))
        if many:
            plainly = plain_seconds(model, x[0], mutations, masks(0), batches[True])
            engine.forget()
            first = seconds(lambda: engine.draw(window, other, masks(0)))
            more = statistics.median(seconds(lambda: engine.draw(window, other, masks(d))) for d in range(1, draws + 1))
            at_50.append(50 * plainly / (first + 49 * more))
    plain_products, fast_products = multiply_adds(model, built(model, columns, 1).engine)
    ratio = lambda at: round(statistics.median(at), 1) if at else 1.0
    return {"network": name, "window_bp": model.length, "line": line, "lines": 1, "right_to": f"{by}; {off:.0e}", "engine": engine_name(once),
            "at_1": ratio(at_1), "at_50": ratio(at_50) if sampler else np.nan, "plain_gmac": round(plain_products / 1e9, 2),
            "fast_gmac": round(fast_products / 1e9, 2), "work": round(plain_products / fast_products, 1),
            "draws": "masks" if sampler else "members or backgrounds"}


def long(length=10_000, span=(5_000, 5_010)):
    "A run of the long network over a stretch, by the engine that deepmr takes: CPU seconds, and the process's peak memory."
    torch.manual_seed(0)
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    begun, before = time.process_time(), peak()
    model = adapt(splice_10k(), ["acceptor", "donor"], length, "SpliceAI, 10 kb", outputs=lambda y: torch.stack([y[:, 1, 4_900], y[:, 2, 5_100]], 1))
    taken = time.process_time()
    one = min(seconds(lambda: model.predict(random_windows(1, length, seed=2))) for _ in range(3))
    asked = time.process_time()
    data = mutation_effects(model, random_windows(1, length, seed=1), "acceptor", "donor", span=span, workers=1)
    return {"window_bp": length, "mutations": 3 * (span[1] - span[0]), "engine": data.attrs["engine"], "take_up_s": taken - begun, "pass_s": one,
            "run_s": time.process_time() - asked, "before_gib": before, "peak_gib": peak(), "torch": torch.__version__}


def main():
    torch.set_num_threads(1)
    if sys.argv[1:] == ["long"]:
        found = long()
        RESULTS.with_name("long.json").write_text(json.dumps(found, indent=1) + "\n")
        print(found)
        return
    asked = [n for n in NETWORKS if not sys.argv[1:] or any(a.lower() in n.lower() for a in sys.argv[1:])]
    rows = {r["network"]: r for r in pd.read_csv(RESULTS).to_dict("records")} if RESULTS.exists() else {}
    for name in asked:
        try:
            rows[name] = row(name)
        except (ImportError, FileNotFoundError) as error:
            print(f"{name}: left out ({error})")
            continue
        print(rows[name], flush=True)
        pd.DataFrame([rows[n] for n in NETWORKS if n in rows]).to_csv(RESULTS, index=False)
    print(importlib.import_module("platform").processor() or "CPU", torch.__version__)


if __name__ == "__main__":
    main()
