#!/usr/bin/env bash
# Evaluate the latest run of each fold. `bash script/evaluate.sh --help` says how.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: bash script/evaluate.sh [key=value ...] [sacred options]

Evaluates each of the five folds with the latest run that was trained for it, then prints the table over all
folds. The first call prepares the Python environment, as script/train.sh --help says.

  bash script/evaluate.sh                                   CHAOST2 if data/CHAOST2 is prepared;
                                                            otherwise PHANTOM (synthetic scans), fold 0 only
  bash script/evaluate.sh dataset=CHAOST2                   all five folds, then the overall table
  bash script/evaluate.sh dataset=CHAOST2 eval_fold=2       one fold
  bash script/evaluate.sh dataset=CHAOST2 eval_fold=2 reload_model_path=runs/<run folder or snapshot>

Several processes share a fold's volumes and write one table:

  NPROC=4 bash script/evaluate.sh dataset=CHAOST2           four processes: a GPU each, or sharing the CPU cores
  NPROC=gpu bash script/evaluate.sh dataset=CHAOST2         as many as there are GPUs
  NNODES=2 NODE_RANK=<0 or 1> MASTER_ADDR=<machine 0> NPROC=4 bash script/evaluate.sh dataset=CHAOST2
                                                            the same command on each of two machines; folds
                                                            use the ports from MASTER_PORT (29500) on

Every key of config_ssl_upload.py can be set. path.<NAME>.<key> alone names the dataset, too; a dataset that
is named and not found is an error. Relative paths start at the repository's root, where the script runs.
A configuration file (JSON) may stand among the arguments, but dataset and eval_fold belong on the
command line. Options (--debug, ...) go to sacred as they are. The first fold that fails ends the loop with
its exit code.
USAGE
}

# shellcheck source=script/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
help_if_asked "$@"
prepare_environment
exec "$python" script/folds.py evaluate "$@"
