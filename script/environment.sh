# shellcheck shell=bash
# Prepare the Python environment; sourced by the scripts in this folder.
#
#   source script/environment.sh    sets repo_root, changes to it and defines the functions below
#   handle_help "$@"                calls the function usage and exits if -h or --help is among the arguments
#   prepare_environment             sets python to an interpreter with all requirements and the built extension
#
# An active virtual or conda environment that satisfies requirements.txt is used and never modified; otherwise
# .venv is created and kept up to date. PYTHON=/path/to/python3 selects the interpreter that creates .venv.
# Errors that the user must fix are reported in one line, with exit code 2.

if ((BASH_VERSINFO[0] < 4)); then
    echo "bash $BASH_VERSION is too old; install version 4 or newer (macOS: brew install bash)" >&2
    exit 2
fi
set -euo pipefail
# These variables change where Python finds its own modules or ours, or keep it running after a script ends.
unset PYTHONHOME PYTHONSAFEPATH PYTHONINSPECT

repo_root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd -- "$repo_root"
venv_dir=$repo_root/.venv
venv_stamp=$venv_dir/requirements.stamp # written last, so that an interrupted install resumes
python=
declare -A state=()

log() { printf 'environment: %s\n' "$*" >&2; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

handle_help() {
    local argument
    for argument in "$@"; do
        if [[ $argument == -h || $argument == --help ]]; then
            usage
            exit
        fi
    done
}

# Fill `state` for the interpreter $1; fails if it does not run.
read_state() {
    state=()
    local key value
    while IFS='=' read -r key value; do
        if [[ $key =~ ^[a-z_]+$ ]]; then # skip lines printed by a sitecustomize
            state[$key]=$value
        fi
    done < <("$1" script/environment_state.py 2>/dev/null)
    [[ -n ${state[version]-} && -n ${state[unmet]+known} ]]
}

# Use the active environment; fails if there is none or it lacks a requirement.
use_active_environment() {
    local active_dir=${VIRTUAL_ENV-}
    if [[ -z $active_dir && ${CONDA_DEFAULT_ENV-base} != base ]]; then
        active_dir=${CONDA_PREFIX-}
    fi
    if [[ -z $active_dir || $active_dir -ef $venv_dir ]]; then
        return 1
    fi
    if ! read_state "$active_dir/bin/python"; then
        log "the active environment $active_dir has no working Python; using .venv"
        return 1
    fi
    if [[ -n ${state[unmet]} ]]; then
        log "the active environment $active_dir lacks ${state[unmet]}; using .venv"
        return 1
    fi
    log "using the active environment $active_dir"
    python=$active_dir/bin/python
}

# Test whether .venv satisfies the current requirements.txt and its installation was completed.
venv_is_ready() {
    read_state "$venv_dir/bin/python" || return 1
    [[ -z ${state[unmet]} && -f $venv_stamp && $(<"$venv_stamp") == "${state[requirements]}" ]]
}

# Lock until unlock_environment: jobs that start together on a shared file system must not install concurrently.
lock_environment() {
    mkdir -p build 2>/dev/null || true
    [[ -w build ]] || fail "$repo_root/build: not writable; use your own clone"
    if ! command -v flock >/dev/null; then
        log "flock is not installed: start other jobs only after this one reports ready"
        return
    fi
    exec {lock_fd}>build/environment.lock
    flock --nonblock "$lock_fd" 2>/dev/null && return
    log "waiting for another job to prepare the environment"
    flock "$lock_fd" || log "$repo_root/build: the file system does not support locks; continuing without one"
}

# Release the lock; processes started later must not inherit it.
unlock_environment() {
    if [[ -n ${lock_fd-} ]]; then
        exec {lock_fd}>&-
    fi
}

# Print the interpreter that creates .venv.
find_base_python() {
    local candidates=(python3 python3.14 python3.13 python3.12 python3.11 python3.10)
    local candidate version reason='' hint='install it, or set PYTHON=/path/to/python3.12'
    if [[ -n ${PYTHON-} ]]; then
        candidates=("$PYTHON")
    fi
    for candidate in "${candidates[@]}"; do
        version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        if ! "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
            reason=${reason:-"$candidate is Python $version"}
        elif ! "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            reason="$candidate (Python $version) has no venv package"
            hint="install it (Debian, Ubuntu: sudo apt install python$version-venv), set PYTHON to another Python,"
            hint+=" or activate an environment that satisfies requirements.txt"
        else
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "creating .venv needs Python 3.10 or newer with venv, but" \
        "${reason:-"${candidates[0]} does not run"}; $hint"
}

create_venv() {
    local base_python
    base_python=$(find_base_python) || exit $?
    log "creating .venv with $("$base_python" -c 'import sys; print(sys.executable, sys.version.split()[0])')"
    # --clear: files of an interrupted or foreign installation must not mix with the new one.
    "$base_python" -m venv --clear "$venv_dir" >build/venv.log 2>&1 ||
        fail "$venv_dir: could not be created: $(error_in_log build/venv.log)"
}

# Print the last error in a log, or its last line that is not blank.
error_in_log() {
    { grep -E '^ *(ERROR|error|Error|[A-Za-z]*Error)\b' "$1" || grep -v '^ *$' "$1" || true; } |
        tail -n 1 | sed -E 's/^ *(ERROR|error): *//'
}

# Condense pip's output (standard input): one line per download over 10 MB, and a heartbeat.
show_pip_progress() {
    local line wheel name version
    while true; do
        if IFS= read -r -t 30 line; then
            case $line in
            *Downloading*'('[1-9][0-9]*.[0-9]" MB)")
                wheel=${line##*Downloading } # torch-2.15.0-cp311-....whl (539.1 MB)
                IFS=- read -r name version _ <<<"$wheel"
                log "  downloading $name $version (${wheel##*(}"
                ;;
            "Installing collected packages"*) log "  unpacking (takes a minute or two)" ;;
            esac
        elif (($? > 128)); then # no output for 30 s
            log "  still running after $SECONDS s"
        else
            break
        fi
    done
}

install_requirements() {
    if venv_is_ready; then # another job installed them while this one waited for the lock
        return
    fi
    if [[ ${state[unmet]-Python} == Python* ]] || ! "$venv_dir/bin/python" -m pip --version >/dev/null 2>&1; then
        create_venv
    fi
    rm -f -- "$venv_stamp"
    log "installing requirements.txt into .venv (the first time takes a few minutes and about 6 GB of disk space)"
    # PIP_USER=0: pip refuses `user = true` of a user's pip.conf inside a virtual environment.
    PIP_USER=0 PYTHONUNBUFFERED=1 "$venv_dir/bin/python" -m pip install --disable-pip-version-check --no-input \
        --progress-bar off --requirement requirements.txt 2>&1 | tee build/pip.log | show_pip_progress ||
        explain_pip_failure
    read_state "$venv_dir/bin/python" || fail "$venv_dir/bin/python: does not run once installed; see build/pip.log"
    [[ -z ${state[unmet]} ]] || fail "pip succeeded, but .venv still lacks ${state[unmet]}; see build/pip.log"
    printf '%s\n' "${state[requirements]}" >"$venv_stamp"
}

explain_pip_failure() {
    if grep -Eq 'No space left on device|Disk quota exceeded' build/pip.log; then
        fail "the disk is full: .venv needs about 6 GB in $repo_root, pip's cache and temporary files as much again" \
            "(TMPDIR and PIP_CACHE_DIR set their folders); free some space, then run this again"
    fi
    if grep -Eq 'NewConnectionError|ConnectTimeout|ReadTimeout|name resolution|ProxyError|SSLError|unreachable' \
        build/pip.log; then
        fail "the package index is unreachable: run this once where it is reachable (such as a cluster's login node" \
            "that shares this folder), or activate an environment that satisfies requirements.txt; see build/pip.log"
    fi
    fail "pip could not install requirements.txt: $(error_in_log build/pip.log); see build/pip.log"
}

# Build the extension for $python if it is missing or outdated.
build_extension() {
    read_state "$python" || fail "$python: does not run"
    if [[ ${state[extension]} == current ]]; then
        return
    fi
    log "building the Cython extension"
    # --force: timestamps of copied files may hide a change.
    CYTHON_FORCE_REGEN=1 "$python" data/supervoxels/setup.py build_ext --inplace --force >build/extension.log 2>&1 ||
        explain_build_failure
    printf '%s\n' "${state[extension_sources]}" >"${state[extension_stamp]}"
    read_state "$python"
    [[ ${state[extension]} == current ]] ||
        fail "data/supervoxels/setup.py built no extension for Python ${state[version]}; see build/extension.log"
}

explain_build_failure() {
    if grep -q 'Python\.h' build/extension.log; then
        fail "Python's C headers are missing: install them (Debian, Ubuntu: sudo apt install python3-dev), or" \
            "remove .venv and set PYTHON to a Python that has them; see build/extension.log"
    fi
    fail "the Cython extension could not be built: $(error_in_log build/extension.log); see build/extension.log"
}

prepare_environment() {
    if use_active_environment; then
        [[ ${state[extension]} == current ]] && return
    else
        python=$venv_dir/bin/python
        venv_is_ready && [[ ${state[extension]} == current ]] && return
    fi
    trap 'log "interrupted; run the command again to resume"; exit 130' INT
    lock_environment
    if [[ $python == "$venv_dir"/* ]]; then
        install_requirements
    fi
    build_extension
    unlock_environment
    trap - INT
    log "ready"
}
