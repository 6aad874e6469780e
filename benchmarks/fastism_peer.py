"""fastISM's saturation mutagenesis on a network of DeepSEA's shape, for the table of peers.

fastISM needs TensorFlow 2 with the older Keras, so this runs in an environment of its own, without deepmr:

    pip install tensorflow-cpu tf-keras fastism
    python benchmarks/fastism_peer.py

It has no dropout, and one call replaces every position by one base: three calls make all substitutions. Sequences go
through together, which is how it is meant to be used. Adds its row to benchmarks/results/propagate.json.
"""

import json
import os
import time
from pathlib import Path

os.environ |= {"TF_USE_LEGACY_KERAS": "1", "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
import fastism
import numpy as np
import tensorflow as tf

RESULTS = Path(__file__).parent / "results" / "propagate.json"
SEQUENCES, CALLS = 16, 3


def deepsea():
    layers = tf.keras.layers
    x = first = layers.Input((1000, 4))
    for channels, pool in ((320, 4), (480, 4), (960, 0)):
        x = layers.Conv1D(channels, 8, activation="relu")(x)
        x = layers.MaxPooling1D(pool)(x) if pool else x
    x = layers.Dense(925, activation="relu")(layers.Flatten()(x))
    return tf.keras.Model(first, layers.Dense(37, activation="sigmoid")(x))


def main():
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    codes = np.random.default_rng(0).integers(0, 4, (SEQUENCES, 1000))
    x, engine = np.eye(4, dtype=np.float32)[codes], fastism.FastISM(deepsea(), test_correctness=False)
    engine(x)  # builds its graphs
    start = time.process_time()
    engine(x)
    spent = (time.process_time() - start) * CALLS / SEQUENCES
    row = {
        "tool": f"fastISM {fastism.__version__ if hasattr(fastism, '__version__') else '0.5'}, {SEQUENCES} windows at once, per window",
        "seconds": spent,
        "runs": 1,
        "note": "CPU seconds, TensorFlow " + tf.__version__,
    }
    print(row)
    stored = json.loads(RESULTS.read_text())
    stored["peers"] = [r for r in stored["peers"] if not r["tool"].startswith("fastISM")] + [row]
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
