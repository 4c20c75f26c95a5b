#!/usr/bin/env bash
# Serve segmentation over HTTP, with a page for the browser; see `bash script/serve.sh --help`.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: bash script/serve.sh reload_model_path=<snapshot or run> [key=value ...] [--debug]

Serves segmentation with a trained network over HTTP, with a page for the browser. Research use only: not a
medical device, check every mask. Needs `pip install -r script/requirements/server.txt` in the environment that the
script uses. The first call prepares that environment, see script/train.sh --help. docs/server.md describes the
calls, and script/napari_client.py uses them.

  bash script/serve.sh reload_model_path=runs/CHAOST2/fold_0/training/1       then open the address that it prints
  ... reload_model_path=runs/CHAOST2/fold_0/training/1,runs/SABS/fold_0/training/1    clients choose among two
  ... host=0.0.0.0                                                            for other computers, with a token

  reload_model_path=   trained networks to choose from, snapshots or run folders; the first is loaded at once
  host=                address to listen on; default 127.0.0.1, which only this computer reaches
  port=                port to listen on; default 8765, 0 for a free one
  token=               what clients must send; by default none on a loopback address, otherwise generated and printed
  max_upload_mb=       limit of one upload; default 512
  guide=, adaptation=, unet_steps=, test_time_augmentation=, largest_component=, intensity_weight=, prepared=,
  orientation=, data_dir=, device=, precision=
                       as in script/predict.sh; adapted networks are not kept

There is one network and one annotated scan per server, for all of its clients, and one call computes at a time.
On a computer that several people use, set a token: the others reach the loopback address, too.
USAGE
}

# shellcheck source=script/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
handle_help "$@"
prepare_environment
exec "$python" -m script.server "$@"
