#!/usr/bin/env bash
# Makes a virtual environment with Specyard in it: setup.sh [VENV [LOCK]]. LOCK is a file of exact, hashed versions, or `none`
# for the newest that the ranges in pyproject.toml allow, or `lowest`, in a new environment, for the lowest.
# torch comes apart, in the version it was tested with. Where there is no GPU it is a CPU build: nobody downloads gigabytes
# of CUDA by accident.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}
lock=${2:-requirements.lock}
torch=$(cat tools/torch.txt)
export PIP_DISABLE_PIP_VERSION_CHECK=1

stop() {
    echo "setup: $*" >&2
    exit 2
}

if [ "$lock" != none ] && [ "$lock" != lowest ] && [ ! -f "$lock" ]; then
    stop "$lock is missing: get it back with git, make it with \`make lock\`, or take the newest versions with LOCK=none"
fi
python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    stop "Python 3.11 or newer is needed, $python is $("$python" -V 2>&1); set PYTHON=/path/to/python3.12"
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
python=$venv/bin/python
pip=("$python" -m pip --quiet)

case $lock in
# A pip older than 25.2 downloads a package to see what it would bring. The lock has one, and uv, too.
none | lowest) "${pip[@]}" install --upgrade "pip>=25.2" uv ;;
*) "${pip[@]}" install --require-hashes --no-deps --only-binary :all: -r "$lock" ;;
esac

installed='import sys; from importlib.metadata import version; sys.exit("torch==" + version("torch").split("+")[0] != sys.argv[1])'
if ! "$python" -c "$installed" "$torch" 2>/dev/null; then
    plan=$(mktemp)
    trap 'rm -f "$plan"' EXIT
    if nvidia-smi -L >/dev/null 2>&1; then
        "${pip[@]}" install "$torch"
    elif "${pip[@]}" install --dry-run --ignore-installed --report "$plan" "$torch" && grep -qE '"name": "(nvidia|cuda)-' "$plan"; then
        # pip would take the CUDA build here; uv knows where the CPU builds are.
        "$venv/bin/uv" pip install --quiet --python "$python" --torch-backend cpu --no-deps "$torch" ||
            stop "no CPU build of $torch was found; install any build of it with \`$python -m pip install\` and start again"
    else
        "${pip[@]}" install --no-deps "$torch"
    fi
fi

case $lock in
none) "${pip[@]}" install --upgrade --upgrade-strategy eager --constraint tools/torch.txt --editable ".[dev,gguf]" ;;
lowest) "$venv/bin/uv" pip install --quiet --python "$python" --resolution lowest-direct --constraints tools/torch.txt --editable ".[dev,gguf]" ;;
*) # Everything is there, and nothing more may come: what pyproject.toml asks for beyond that is not in the lock.
    "${pip[@]}" install --no-index --no-build-isolation --check-build-dependencies --editable ".[dev,gguf]" ||
        stop "$lock does not hold what pyproject.toml asks for: make it anew with \`make lock\`"
    ;;
esac
"$python" -m pip check
