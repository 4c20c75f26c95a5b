#!/usr/bin/env bash
# Run benchmarks and write bench/RESULTS.md; see `bash bench/run.sh --help`.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: bash bench/run.sh [name ...] [--quick] [--device cpu|cuda|mps]

Runs the named benchmarks, by default all, and writes bench/RESULTS.md from all results so far. Each finished
benchmark writes bench/results/<device>/<name>.json; after an interruption, name the remaining ones.
--quick takes under a minute each and writes to build/bench instead, so that recorded results are kept.

  bash bench/run.sh                          all, on the CPU
  bash bench/run.sh supervoxels episodes
  bash bench/run.sh --quick
  bash bench/run.sh --device cuda            all that support a device
USAGE
}

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# These run on the CPU only, whatever --device says.
cpu_only=' supervoxels episodes startup contention allocators '

all=()
for file in "$here"/*.py; do
    # The other modules are shared code.
    if grep -q '^    write_section(' "$file"; then
        all+=("$(basename -- "$file" .py)")
    fi
done

names=()
options=()
quick=()
device=cpu
while (($#)); do
    case $1 in
    -h | --help)
        usage
        exit
        ;;
    --quick) quick=(--quick) ;;
    --device | --device=*)
        if [[ $1 == --device ]]; then
            (($# > 1)) || { echo "error: --device needs a name: cpu, cuda or mps" >&2 && exit 2; }
            shift
        fi
        device=${1#--device=}
        options=(--device "$device")
        ;;
    -*)
        echo "error: unknown option '$1'; bash bench/run.sh --help lists them" >&2
        exit 2
        ;;
    *)
        if [[ " ${all[*]} " != *" $1 "* ]]; then
            echo "error: no benchmark is called '$1'; there are: ${all[*]}" >&2
            exit 2
        fi
        names+=("$1")
        ;;
    esac
    shift
done
if ((${#names[@]} == 0)); then
    for name in "${all[@]}"; do
        [[ $device != cpu && $cpu_only == *" $name "* ]] || names+=("$name")
    done
fi

# shellcheck source=script/environment.sh
source "$here/../script/environment.sh"
prepare_environment

# Report the finished benchmarks, even if a later one fails or is interrupted.
trap '"$python" -m bench.results_page "${quick[@]}"; exit 130' INT TERM
failed=()
for name in "${names[@]}"; do
    echo "== $name" >&2
    "$python" -m "bench.$name" "${quick[@]}" "${options[@]}" || failed+=("$name")
done
trap - INT TERM
"$python" -m bench.results_page "${quick[@]}"
if ((${#failed[@]})); then
    echo "error: these failed, see above: ${failed[*]}" >&2
    exit 1
fi
