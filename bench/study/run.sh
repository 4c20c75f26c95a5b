#!/usr/bin/env bash
# Run the study and write its page; see `bash bench/study/run.sh --help`.
set -euo pipefail

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=script/environment.sh
source "$here/../../script/environment.sh"
prepare_environment
exec "$python" -m bench.study.run "$@"
