#!/usr/bin/env bash
# Evaluate the latest run of each fold; see `bash script/evaluate.sh --help`.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: bash script/evaluate.sh [key=value ...] [sacred options]

Evaluates the latest training run of each of the five folds, then prints which ones and the table over all folds.
The first call prepares the Python environment, see script/train.sh --help.

  bash script/evaluate.sh                                   CHAOST2 if prepared in data/CHAOST2,
                                                            otherwise PHANTOM (synthetic scans), fold 0 only
  bash script/evaluate.sh dataset=CHAOST2                   all five folds, then the table over all folds
  bash script/evaluate.sh dataset=CHAOST2 eval_fold=2       one fold
  bash script/evaluate.sh dataset=CHAOST2 eval_fold=2 reload_model_path=runs/<run folder or snapshot>
  bash script/evaluate.sh dataset=CHAOST2 protocol=whole_volume
                                                            every slice, each scan a query once
  bash script/evaluate.sh dataset=CHAOST2 setting=2         all folds of each organ group, then one table with
                                                            all organs
  bash script/evaluate.sh dataset=CHAOST2 method=registration tag=registration
                                                            registration of the support scan alone, no training
  bash script/evaluate.sh dataset=CHAOST2 tag=wide          the trainings of train.sh tag=wide, kept apart

Share a fold's volumes among several processes:

  NPROC=4 bash script/evaluate.sh dataset=CHAOST2           four processes, one GPU each or sharing the CPU cores
  NPROC=gpu bash script/evaluate.sh dataset=CHAOST2         one process per GPU
  NNODES=2 NODE_RANK=<0 or 1> MASTER_ADDR=<machine 0> NPROC=4 bash script/evaluate.sh dataset=CHAOST2
                                                            run on each of two machines; each fold has its own
                                                            port, from MASTER_PORT + 1 on (default 29501)

Any key in docs/configuration.md can be set. path.<NAME>.<key> also selects the dataset. A JSON configuration
file may be among the arguments, but dataset, eval_fold, setting and organ_group must be set on the command line.
Data folders that are not set are those of the training. Options such as
--debug are passed to sacred. Relative paths are relative to the repository's root. If a fold fails, the script
stops with its exit code.
USAGE
}

# shellcheck source=script/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
handle_help "$@"
prepare_environment
exec "$python" script/folds.py evaluate "$@"
