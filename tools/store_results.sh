#!/bin/sh
# Make anew every stored result that depends on the default model: tools/store_results.sh [PYTHON]. About 40 minutes on two cores beside other work.
#
#   WINDOWS=25 DRAWS=50 WORKERS=2 are the defaults; fewer windows or draws take proportionally less.
set -eu
cd "$(dirname "$0")/.."
python=${1:-python}
windows=${WINDOWS:-25} draws=${DRAWS:-50} workers=${WORKERS:-2} runs=${RUNS:-$(mktemp -d)}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS=1 MPLBACKEND=agg
PATH="$(dirname "$(command -v "$python")"):$PATH"
said() { printf '%s  %s\n' "$(date +%H:%M:%S)" "$1"; }

said "1 of 5: Table 1 by the default protocol (README, 20_table1)"
"$python" -m deepmr.cli run experiments/table1.toml --out "$runs/table1" --workers "$workers" > "$runs/table1.log" 2>&1 || { tail -n 3 "$runs/table1.log"; exit 1; }
"$python" tools/store_table1.py "$runs/table1" results/hepg2
said "2 of 5: every HepG2 label (22_four_hundred_factors)"
"$python" tools/store_four_hundred.py hepg2 results/four_hundred "$workers" "$windows"
said "3 of 5: the published protocol (20_table1)"
"$python" tools/store_published.py hepg2-single results/published "$workers" "$windows" "$draws"
said "4 of 5: what the default run costs (README)"
"$python" benchmarks/default_run.py 8
said "5 of 5: the chapters that show them, and the README"
unset MPLBACKEND
"$python" tools/run_notebooks.py 20_table1 22_four_hundred_factors index explanations/E4_columns \
  tutorials/A1_quickstart tutorials/A3_reading_the_diagnostics tutorials/B1_effect_networks
"$python" tools/make_readme.py
said "done; read the difference: git diff --stat"
