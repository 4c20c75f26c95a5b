#!/usr/bin/env bash
# Run the study and write bench/study/RESULTS.md. `bash bench/study/run.sh --help` says how.
set -euo pipefail

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=script/environment.sh
source "$here/../../script/environment.sh"
prepare_environment
exec "$python" -m bench.study.run "$@"
