# shellcheck shell=bash
# Prepare the Python environment; sourced by the scripts beside it.
#
#   source script/environment.sh    sets repo_root, goes there, defines the functions below
#   help_if_asked "$@"              calls the function usage and exits where -h or --help is among the words
#   prepare_environment             sets python to an interpreter that has every requirement and the extension
#
# An active virtual or conda environment that satisfies requirements.txt is used as it is and never changed;
# otherwise .venv is created, filled and kept up to date. PYTHON=/path/to/python3 chooses what creates .venv.
# Exit code 2: something that only the user can mend, told in one line.

if ((BASH_VERSINFO[0] < 4)); then
    echo "bash $BASH_VERSION is too old: version 4 or newer is needed (on macOS: brew install bash)" >&2
    exit 2
fi
set -euo pipefail
# With these Python would look for its own modules, or for ours, in other places than the environment and this clone.
unset PYTHONHOME PYTHONSAFEPATH PYTHONINSPECT

repo_root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd -- "$repo_root"
venv_dir=$repo_root/.venv
venv_stamp=$venv_dir/requirements.stamp # written after the last step, so an interrupted install goes on
python=
declare -A state=()

say() { printf 'environment: %s\n' "$*" >&2; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

help_if_asked() {
    local word
    for word in "$@"; do
        if [[ $word == -h || $word == --help ]]; then
            usage
            exit
        fi
    done
}

# Fill `state` for the Python $1; false where it does not run.
read_state() {
    state=()
    local key value
    while IFS='=' read -r key value; do
        if [[ $key =~ ^[a-z_]+$ ]]; then # a sitecustomize may print lines of its own
            state[$key]=$value
        fi
    done < <("$1" script/environment_state.py 2>/dev/null)
    [[ -n ${state[version]-} && -n ${state[unmet]+known} ]]
}

# Take the active environment where it will do; false where there is none or it lacks something.
use_active_environment() {
    local active_dir=${VIRTUAL_ENV-}
    if [[ -z $active_dir && ${CONDA_DEFAULT_ENV-base} != base ]]; then
        active_dir=${CONDA_PREFIX-}
    fi
    if [[ -z $active_dir || $active_dir -ef $venv_dir ]]; then
        return 1
    fi
    if ! read_state "$active_dir/bin/python"; then
        say "the active environment $active_dir has no Python that works; using .venv"
        return 1
    fi
    if [[ -n ${state[unmet]} ]]; then
        say "the active environment $active_dir lacks ${state[unmet]}; using .venv"
        return 1
    fi
    say "using the active environment $active_dir"
    python=$active_dir/bin/python
}

# True where .venv has every requirement, by a finished install of the present requirements.txt.
venv_is_ready() {
    read_state "$venv_dir/bin/python" || return 1
    [[ -z ${state[unmet]} && -f $venv_stamp && $(<"$venv_stamp") == "${state[requirements]}" ]]
}

# Hold the lock until unlock_environment: jobs that start at once on a shared file system wait for one another.
lock_environment() {
    mkdir -p build 2>/dev/null || true
    [[ -w build ]] || fail "$repo_root/build: cannot write there; use a clone of your own"
    if ! command -v flock >/dev/null; then
        say "no flock on this machine: start further jobs only when this one is ready"
        return
    fi
    exec {lock_fd}>build/environment.lock
    flock --nonblock "$lock_fd" 2>/dev/null && return
    say "waiting for another job that prepares the environment"
    flock "$lock_fd" || say "$repo_root/build: this file system has no locks; going on without"
}

# Let the next job in; what is started later must not inherit the lock.
unlock_environment() {
    if [[ -n ${lock_fd-} ]]; then
        exec {lock_fd}>&-
    fi
}

# Print the interpreter that shall create .venv.
find_base_python() {
    local candidates=(python3 python3.14 python3.13 python3.12 python3.11 python3.10)
    local candidate version reason='' way_out='install one, or name it: PYTHON=/path/to/python3.12'
    if [[ -n ${PYTHON-} ]]; then
        candidates=("$PYTHON")
    fi
    for candidate in "${candidates[@]}"; do
        version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        if ! "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
            reason=${reason:-"$candidate is Python $version"}
        elif ! "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            reason="$candidate (Python $version) has no venv package"
            way_out="install it (Debian, Ubuntu: sudo apt install python$version-venv), or name another Python"
            way_out+=" (PYTHON=/path/to/python3), or activate an environment that satisfies requirements.txt"
        else
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "Python 3.10 or newer with venv is needed to create .venv, but" \
        "${reason:-"${candidates[0]} does not run"}; $way_out"
}

create_venv() {
    local base_python
    base_python=$(find_base_python) || exit $?
    say "creating .venv with $("$base_python" -c 'import sys; print(sys.executable, sys.version.split()[0])')"
    # --clear: what an interrupted or foreign attempt left there must not mix with the new one.
    "$base_python" -m venv --clear "$venv_dir" >build/venv.log 2>&1 ||
        fail "$venv_dir: could not be created: $(last_words build/venv.log)"
}

# The last line of a log that says something, for an error message.
last_words() {
    { grep -E '^ *(ERROR|error|Error|[A-Za-z]*Error)\b' "$1" || grep -v '^ *$' "$1" || true; } |
        tail -n 1 | sed -E 's/^ *(ERROR|error): *//'
}

# Turn pip's chatter (standard input) into a line per download over 10 MB and a sign of life in between.
show_pip_progress() {
    local line wheel name version
    while true; do
        if IFS= read -r -t 30 line; then
            case $line in
            *Downloading*'('[1-9][0-9]*.[0-9]" MB)")
                wheel=${line##*Downloading } # torch-2.15.0-cp311-....whl (539.1 MB)
                IFS=- read -r name version _ <<<"$wheel"
                say "  downloading $name $version (${wheel##*(}"
                ;;
            "Installing collected packages"*) say "  unpacking (a minute or two)" ;;
            esac
        elif (($? > 128)); then # nothing said for 30 s
            say "  still at work after $SECONDS s"
        else
            break
        fi
    done
}

install_requirements() {
    if venv_is_ready; then # another job did it while this one waited for the lock
        return
    fi
    if [[ ${state[unmet]-Python} == Python* ]] || ! "$venv_dir/bin/python" -m pip --version >/dev/null 2>&1; then
        create_venv
    fi
    rm -f -- "$venv_stamp"
    say "installing requirements.txt into .venv (the first time: a few minutes, about 6 GB of disk)"
    # PIP_USER=0: a user's pip.conf with `user = true` is refused inside a virtual environment.
    PIP_USER=0 PYTHONUNBUFFERED=1 "$venv_dir/bin/python" -m pip install --disable-pip-version-check --no-input \
        --progress-bar off --requirement requirements.txt 2>&1 | tee build/pip.log | show_pip_progress ||
        explain_pip_failure
    read_state "$venv_dir/bin/python" || fail "$venv_dir/bin/python: does not run after the install; see build/pip.log"
    [[ -z ${state[unmet]} ]] || fail "pip has finished, but .venv still lacks ${state[unmet]}; see build/pip.log"
    printf '%s\n' "${state[requirements]}" >"$venv_stamp"
}

explain_pip_failure() {
    if grep -Eq 'No space left on device|Disk quota exceeded' build/pip.log; then
        fail "the disk is full: .venv needs about 6 GB in $repo_root, pip's cache and temporary files as much again" \
            "(TMPDIR and PIP_CACHE_DIR move those); then run this again"
    fi
    if grep -Eq 'NewConnectionError|ConnectTimeout|ReadTimeout|name resolution|ProxyError|SSLError|unreachable' \
        build/pip.log; then
        fail "the package index cannot be reached: run this once on a machine with network that shares this folder" \
            "(a cluster's login node), or activate an environment that satisfies requirements.txt; see build/pip.log"
    fi
    fail "pip could not install requirements.txt: $(last_words build/pip.log); see build/pip.log"
}

# Build the extension for $python where it is missing, or older than its sources.
build_extension() {
    read_state "$python" || fail "$python: does not run"
    if [[ ${state[extension]} == current ]]; then
        return
    fi
    say "building the Cython extension"
    # Forced: files copied from elsewhere may carry times that hide a change.
    CYTHON_FORCE_REGEN=1 "$python" data/supervoxels/setup.py build_ext --inplace --force >build/extension.log 2>&1 ||
        explain_build_failure
    printf '%s\n' "${state[extension_sources]}" >"${state[extension_stamp]}"
    read_state "$python"
    [[ ${state[extension]} == current ]] ||
        fail "data/supervoxels/setup.py left no extension for Python ${state[version]}; see build/extension.log"
}

explain_build_failure() {
    if grep -q 'Python\.h' build/extension.log; then
        fail "Python's C headers are missing: install them (Debian, Ubuntu: sudo apt install python3-dev) or set" \
            "PYTHON to a Python that has them and remove .venv; see build/extension.log"
    fi
    fail "the Cython extension could not be built: $(last_words build/extension.log); see build/extension.log"
}

prepare_environment() {
    if use_active_environment; then
        [[ ${state[extension]} == current ]] && return
    else
        python=$venv_dir/bin/python
        venv_is_ready && [[ ${state[extension]} == current ]] && return
    fi
    trap 'say "interrupted; the next call goes on from here"; exit 130' INT
    lock_environment
    if [[ $python == "$venv_dir"/* ]]; then
        install_requirements
    fi
    build_extension
    unlock_environment
    trap - INT
    say "ready"
}
