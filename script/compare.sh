#!/usr/bin/env bash
# Compare evaluations scan by scan; see `bash script/compare.sh --help`.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: bash script/compare.sh <run> <run> [<run> ...] [out=<folder>] [common=True]

Compares each evaluation with the first one: mean difference per organ with a 95 % bootstrap interval over
scans, Wilcoxon's signed-rank test with Holm's correction over organs, and the matched-pairs rank-biserial
correlation. Writes compare.csv, compare.json, compare.md and compare.tex into out, by default the first run.

  bash script/compare.sh runs/CHAOST2 other_runs/CHAOST2         whole cross-validations: each fold's newest
  bash script/compare.sh runs/CHAOST2/fold_0/evaluation/1 runs/CHAOST2/fold_0/evaluation/2
  bash script/compare.sh runs/CHAOST2/summary@registration runs/CHAOST2/summary@trained
                                                                 two methods of one evaluation

A run is an evaluation, a summary folder or a folder of fold_<k>. The method of its predictions is compared, or
the one after @. Evaluations of other data, organs or protocols are refused, and
so are other supports and queries, unless common=True compares the scans and organs that all of them have.
USAGE
}

# shellcheck source=script/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
handle_help "$@"
prepare_environment
exec "$python" validation.py compare "$@"
