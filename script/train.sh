#!/usr/bin/env bash
# Train one model per fold; see `bash script/train.sh --help`.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: bash script/train.sh [key=value ...] [sacred options]

Trains one model per fold; each of the five folds is held out in turn. The first call creates .venv, installs
requirements.txt and builds the Cython extension. An active virtual environment that satisfies requirements.txt
is used instead of .venv. PYTHON=/path/to/python3 selects the interpreter that creates .venv.

  bash script/train.sh                                      CHAOST2 if prepared in data/CHAOST2,
                                                            otherwise PHANTOM (synthetic scans), fold 0 only
  bash script/train.sh dataset=PHANTOM                      all five folds of PHANTOM
  bash script/train.sh dataset=CHAOST2 eval_fold=2          one fold
  bash script/train.sh dataset=CHAOST2 setting=2            all folds of each organ group
  bash script/train.sh dataset=CHAOST2 tag=wide model.feature_width=1024
                                                            a variant, whose runs are kept apart
  bash script/train.sh dataset=SABS path.SABS.data_dir=/scans/SABS n_steps=2000 'test_label=[1, 6]'

Train on several processes; each step then takes batch_size episodes per process:

  NPROC=4 bash script/train.sh dataset=CHAOST2              four processes, one GPU each or sharing the CPU cores
  NPROC=gpu bash script/train.sh dataset=CHAOST2            one process per GPU
  NNODES=2 NODE_RANK=<0 or 1> MASTER_ADDR=<machine 0> NPROC=4 bash script/train.sh dataset=CHAOST2
                                                            run on each of two machines; each fold has its own
                                                            port, from MASTER_PORT + 1 on (default 29501)

Any key in docs/configuration.md can be set. path.<NAME>.<key> also selects the dataset. A JSON configuration
file may be among the arguments, but dataset, eval_fold, setting and organ_group must be set on the command line.
Options such as
--debug are passed to sacred. Relative paths are relative to the repository's root. If a fold fails, the script
stops with its exit code.
USAGE
}

# shellcheck source=script/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
handle_help "$@"
prepare_environment
exec "$python" script/folds.py train "$@"
