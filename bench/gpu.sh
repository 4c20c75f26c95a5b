#!/usr/bin/env bash
# Measure everything that needs a GPU, unattended. `bash bench/gpu.sh --help` says how.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: bash bench/gpu.sh [--quick] [--device cuda|cpu] [key=value ...]

Runs the tests that need a GPU, the benchmarks that use a device, and a training of CHAOST2 (PHANTOM if CHAOST2 is not
prepared), fold 0, with its evaluation; writes bench/RESULTS.md. Takes at most 25 minutes: each part is stopped after its
share (ten times that on a CPU), and the results of the others are kept. Further words are configuration keys of the
training.
--quick makes everything small and writes to build/bench; with --device cpu it tries this script without a GPU.

  bash bench/gpu.sh
  bash bench/gpu.sh path.CHAOST2.data_dir=/data/CHAOST2 model.encoder_weights=None
USAGE
}

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
device=cuda
quick=()
overrides=()
while (($#)); do
    case $1 in
    -h | --help)
        usage
        exit
        ;;
    --quick) quick=(--quick) ;;
    --device=*) device=${1#--device=} ;;
    --device)
        (($# > 1)) || { echo "error: --device needs a name: cuda or cpu" >&2 && exit 2; }
        device=$2
        shift
        ;;
    *=*) overrides+=("$1") ;;
    *)
        echo "error: unknown option '$1'; bash bench/gpu.sh --help lists them" >&2
        exit 2
        ;;
    esac
    shift
done

# shellcheck source=script/environment.sh
source "$here/../script/environment.sh"
prepare_environment
if [[ $device == cuda* ]] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "error: PyTorch sees no CUDA GPU; try the script with --device cpu --quick" >&2
    exit 2
fi

failed=()
patience=1
if [[ $device == cpu ]]; then
    patience=10 # a CPU may be busy, and is not rented by the minute
fi
# run <minutes> <name> <command ...>
run() {
    local minutes=$((patience * $1)) name=$2 started=$SECONDS
    shift 2
    echo "== $name (at most $minutes min)" >&2
    timeout --signal=INT --kill-after=20 $((60 * minutes)) "$@" || failed+=("$name")
    echo "== $name took $((SECONDS - started)) s" >&2
}

if [[ $device == cuda* ]]; then
    run 3 tests "$python" -m pytest -q -m cuda
fi
run 11 fold "$python" -m bench.fold --device "$device" "${quick[@]}" "${overrides[@]}"
run 4 training_step "$python" -m bench.training_step --device "$device" "${quick[@]}"
run 3 evaluation "$python" -m bench.evaluation --device "$device" "${quick[@]}"
run 2 memory "$python" -m bench.memory --device "$device" "${quick[@]}"
run 2 growth "$python" -m bench.growth --device "$device" "${quick[@]}"
"$python" -m bench.results_page "${quick[@]}"
if ((${#failed[@]})); then
    echo "error: these failed or took too long, see above: ${failed[*]}" >&2
    exit 1
fi
