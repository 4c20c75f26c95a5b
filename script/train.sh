#!/usr/bin/env bash
# Train, one run for each fold. `bash script/train.sh --help` says how.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: bash script/train.sh [key=value ...] [sacred options]

Trains one model for each of the five folds, held out in turn. The first call creates .venv, installs
requirements.txt into it and builds the Cython extension; an active virtual environment that satisfies
requirements.txt is used instead. PYTHON=/path/to/python3 chooses the Python of .venv.

  bash script/train.sh                                      CHAOST2 if data/CHAOST2 is prepared;
                                                            otherwise PHANTOM (synthetic scans), fold 0 only
  bash script/train.sh dataset=PHANTOM                      all five folds of PHANTOM
  bash script/train.sh dataset=CHAOST2 eval_fold=2          one fold
  bash script/train.sh dataset=SABS path.SABS.data_dir=/scans/SABS n_steps=2000 'test_label=[1, 6]'

Several processes train a model together; a step then plays batch_size episodes on each of them:

  NPROC=4 bash script/train.sh dataset=CHAOST2              four processes: a GPU each, or sharing the CPU cores
  NPROC=gpu bash script/train.sh dataset=CHAOST2            as many as there are GPUs
  NNODES=2 NODE_RANK=<0 or 1> MASTER_ADDR=<machine 0> NPROC=4 bash script/train.sh dataset=CHAOST2
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
exec "$python" script/folds.py train "$@"
