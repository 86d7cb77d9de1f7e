#!/usr/bin/env bash
# Makes a virtual environment with Specyard in it. Where there is no GPU, torch is a CPU build: nobody downloads
# gigabytes of CUDA by accident.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}
cpu_torch="torch==2.13.0"
export PIP_DISABLE_PIP_VERSION_CHECK=1

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "setup: Python 3.11 or newer is needed, $python is $("$python" -V 2>&1); set PYTHON=/path/to/python3.12" >&2
    exit 2
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
python=$venv/bin/python
if ! "$python" -c 'import torch' 2>/dev/null; then
    "$python" -m pip install -q --upgrade "pip>=25.2" # older ones download a package to see what it would bring
    plan=$(mktemp)
    trap 'rm -f "$plan"' EXIT
    if nvidia-smi -L >/dev/null 2>&1; then
        "$python" -m pip install -q torch
    elif "$python" -m pip install -q --dry-run --ignore-installed --report "$plan" "$cpu_torch" &&
        grep -qE '"name": "(nvidia|cuda)-' "$plan"; then
        # pip would take the CUDA build here; uv knows where the CPU builds are.
        "$python" -m pip install -q uv
        "$venv/bin/uv" pip install -q --python "$python" --torch-backend cpu "$cpu_torch"
    else
        "$python" -m pip install -q "$cpu_torch"
    fi
fi
"$python" -m pip install -q -e ".[dev]"
