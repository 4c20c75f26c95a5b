#!/usr/bin/env bash
# Draw training episodes, or what the network makes of a query; see `bash script/show_episodes.sh --help`.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: bash script/show_episodes.sh [key=value ...]
       bash script/show_episodes.sh scan=<id> organ=<name> [reload_model_path=...] [key=value ...]

Draws the first training episodes of a fold after augmentation: support with its mask, query, query with its
mask. The first call prepares the Python environment, see script/train.sh --help.

  bash script/show_episodes.sh dataset=CHAOST2 eval_fold=0 n_episodes=20
  bash script/show_episodes.sh dataset=CHAOST2 eval_fold=0 task.noise=0.1 output=noise.png

With scan= and organ= it draws a query of an evaluation, in the slice with the most of the organ: support with
its mask, centres of the foreground prototypes, attention of the predicted organ to the support and to the query
itself, query with truth (blue) and prediction (orange), probability and prior masks. The snapshot is the latest
of dataset and fold, or reload_model_path.

  bash script/show_episodes.sh dataset=CHAOST2 eval_fold=0 scan=1 organ=right_kidney

The picture is written to runs/<dataset>/fold_<k>/episodes.png or scan_<id>_<organ>.png, or to output=<file>.png.
Any key in docs/configuration.md can be set. Relative paths are relative to the repository's root.
USAGE
}

# shellcheck source=script/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
handle_help "$@"
prepare_environment
exec "$python" -m script.show_episodes "$@"
