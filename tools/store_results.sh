#!/bin/sh
# Make anew every stored result that depends on the default model: tools/store_results.sh [STEP ...]. An hour or two on two cores.
#
#   STEPs are all of them, or some of: model table1 labels published cells measured coverage decoys masks cost networks chapters
#   PYTHON=python DATA=../shared/hg19 WINDOWS=25 DRAWS=50 WORKERS=2 are the defaults. `model`, `cells`, `measured`, `decoys` and `masks` read DATA.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python} data=${DATA:-../shared/hg19}
windows=${WINDOWS:-25} draws=${DRAWS:-50} workers=${WORKERS:-2} runs=runs/stored
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS=1
PATH="$(dirname "$(command -v "$python")"):$PATH"

make_step() {
  case $1 in
    model) # its tables and card, and what else of it the chapters of the training show
      "$python" tools/run_notebooks.py 12c_evaluation --slow
      "$python" tools/run_notebooks.py 12b_training --slow=strands
      "$python" tools/run_notebooks.py 12b_training --slow=first_filters ;;
    table1) # README, 20_table1, 04e_scale
      "$python" -m deepmr.cli run experiments/table1.toml --out runs/table1 --workers "$workers"  # the path is in its record
      "$python" tools/store_table1.py runs/table1 results/hepg2 ;;
    labels) # 22_four_hundred_factors
      "$python" tools/store_four_hundred.py hepg2 results/four_hundred "$workers" "$windows" ;;
    published) # 20_table1
      "$python" tools/store_published.py hepg2-single results/published "$workers" "$windows" "$draws" ;;
    cells) # E3_other_networks
      "$python" tools/store_cells.py "$data" ;;
    measured) # 23_experiments
      "$python" tools/store_experiments.py hepg2 "$(dirname "$data")" ;;
    coverage) # 11c_calibration
      "$python" tools/store_slopes.py results/coverage hepg2 "$workers" ;;
    decoys) # 07d_controls
      "$python" tools/store_decoys.py "$data" nbs/data ;;
    masks) # 09_plots
      printf 'chr22\t21002231\t21003231\n' > "$runs/window.bed"
      "$python" -m deepmr.cli effects --model hepg2-single --draws "$draws" --exposures HepG2_HNF4A_None --regions "$runs/window.bed" \
        --genome "$(ls "$data"/*.fa.gz)" --out results/one_window/masks.nc ;;
    cost) # README, E1_cluster
      "$python" benchmarks/default_run.py 8 ;;
    networks) # README, 04b_stages, 04c_propagate, E3_other_networks
      "$python" benchmarks/networks.py "default (hepg2)"
      "$python" benchmarks/propagate.py table --networks "default (hepg2)"
      "$python" benchmarks/propagate.py sources --runs 9 ;;
    chapters) # all that show the model, and the README
      "$python" tools/run_notebooks.py
      "$python" tools/make_readme.py ;;
  esac
}

all='model table1 labels published cells measured coverage decoys masks cost networks chapters'
# shellcheck disable=SC2086
[ $# -gt 0 ] || set -- $all
for step; do
  case " $all " in *" $step "*) ;; *) echo "store_results.sh: found no step $step, expected one of: $all" >&2; exit 2 ;; esac
done
mkdir -p "$runs"
exec 3>&2
trap '[ $? -eq 0 ] || { tail -n 5 "$runs/$step.log"; echo "$runs/$step.log"; } >&3' EXIT
for step; do
  printf '%s  %s\n' "$(date +%H:%M:%S)" "$step"
  make_step "$step" > "$runs/$step.log" 2>&1  # not beside || or in a test: there the shell would go on after a command that fails
done
printf '%s  done; read the difference: git diff --stat\n' "$(date +%H:%M:%S)"
