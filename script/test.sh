#!/usr/bin/env bash
# Check style and imports, then run the tests: `bash script/test.sh [pytest arguments]`.
set -euo pipefail

if [[ ${1-} == -h || ${1-} == --help ]]; then
    cat <<'USAGE'
usage: bash script/test.sh [pytest arguments]

Runs ruff (rules and format), import-linter (which module may import which) and pytest, on everything by default, on up to
four cores; fails if one of them fails. Prepares the Python environment first, as script/train.sh --help says. Paths start
at the repository's root.

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
# Through $python: the script's first line names the interpreter by a path from before the folder was moved.
imports_code=0
"$python" "${python%/*}/lint-imports" --no-logo --no-cache || imports_code=1
test_code=0
# Small tensors: more threads only wait for each other.
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} "$python" -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile \
    --no-loadscope-reorder "$@" || test_code=$?

if ((style_code != 0)); then
    echo "ruff found something, see above (ruff check --fix . and ruff format . mend most of it)" >&2
fi
if ((imports_code != 0)); then
    echo "a module imports what it may not, see above; the contracts stand in pyproject.toml" >&2
fi
exit $((test_code != 0 ? test_code : style_code | imports_code))
