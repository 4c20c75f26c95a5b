#!/usr/bin/env bash
# Check style and imports, then run the tests: `bash script/test.sh [pytest arguments]`.
set -euo pipefail

if [[ ${1-} == -h || ${1-} == --help ]]; then
    cat <<'USAGE'
usage: bash script/test.sh [pytest arguments]

Runs ruff (lint and format), import-linter and pytest (by default all tests, on up to four cores); fails if any
of them fails. Prepares the Python environment first, see script/train.sh --help. Paths are relative to the
repository's root.

  bash script/test.sh
  bash script/test.sh tests/models -k prototype
USAGE
    exit
fi

# shellcheck source=script/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment

style_code=0
"$python" -m ruff check . || style_code=1
"$python" -m ruff format --check . || style_code=1
# Run by $python: the shebang line of lint-imports is outdated if the folder was moved.
imports_code=0
"$python" "${python%/*}/lint-imports" --no-logo --no-cache || imports_code=1
test_code=0
# One thread per process: tests use small tensors, and their processes share the cores.
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} "$python" -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile \
    --no-loadscope-reorder "$@" || test_code=$?

if ((style_code != 0)); then
    echo "ruff found problems, see above (ruff check --fix . and ruff format . fix most of them)" >&2
fi
if ((imports_code != 0)); then
    echo "forbidden import, see above; the contracts are in pyproject.toml" >&2
fi
exit $((test_code != 0 ? test_code : style_code | imports_code))
