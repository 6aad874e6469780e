#!/usr/bin/env bash
# Build the sdist and from it the wheel, install the wheel in an empty environment, run the main job from an empty directory.
# Usage: tools/check_wheel.sh [python that has `build`]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${1:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH  # the check is of the wheel, not of this directory

echo "building sdist and wheel ..."
"$python" -m build --outdir "$work/dist" "$root" > "$work/build.log" || { cat "$work/build.log" >&2; exit 1; }
wheel=$(ls "$work"/dist/*.whl)
"$python" - "$root" "$wheel" <<'PY'
import sys, zipfile
from pathlib import Path
root, names = Path(sys.argv[1]), zipfile.ZipFile(sys.argv[2]).namelist()
wanted = [f"deepmr/{p.relative_to(root / 'deepmr')}" for p in (root / "deepmr").rglob("*") if p.is_file() and p.suffix != ".pyc"]
missing = [n for n in wanted if n not in names] + [n for n in ("LICENSE", "METADATA", "entry_points.txt") if not any(m.endswith(n) for m in names)]
strange = [n for n in names if not n.startswith("deepmr")]
sys.exit(f"missing in the wheel: {missing}; not of the package: {strange}" if missing or strange else 0)
PY

echo "installing $(basename "$wheel") in an empty environment ..."
"$python" -m venv "$work/venv"
bin=$work/venv/bin
"$bin/python" -m pip --disable-pip-version-check install --quiet --constraint "$root/constraints.txt" "$wheel"
"$bin/python" -m pip check

echo "running the main job ..."
mkdir "$work/empty" && cd "$work/empty"
"$bin/python" - <<'PY'
import random
random.seed(0)
with open("genome.fa", "w") as f:
    f.write(">chr1\n" + "".join(random.choices("ACGT", k=4000)) + "\n")
with open("sites.bed", "w") as f:
    f.write("chr1\t1000\t1200\nchr1\t2500\t2700\n")
PY
"$bin/deepmr" table1 --genome genome.fa --regions sites.bed --exposures HepG2_CTCF_None --windows 2 --draws 5 --out run
"$bin/deepmr" report run
"$bin/python" - <<'PY'
import sys
import pandas as pd, deepmr
assert "site-packages" in deepmr.__file__, deepmr.__file__
table = pd.read_csv("run/table1.csv")
assert table.exposure.tolist() == ["HepG2_CTCF_None"] and table.n_windows.item() == 2 and table["mean"].notna().all(), table
PY
echo "the wheel works: $(basename "$wheel")"
