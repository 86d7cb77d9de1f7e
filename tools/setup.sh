#!/usr/bin/env bash
# Makes a virtual environment with Specyard in it. Where there is no GPU, torch is a CPU build: nobody downloads
# gigabytes of CUDA by accident.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}
cpu_torch="torch==2.13.0"
export PIP_DISABLE_PIP_VERSION_CHECK=1

[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
python=$venv/bin/python
if ! "$python" -c 'import torch' 2>/dev/null; then
    if nvidia-smi -L >/dev/null 2>&1; then
        "$python" -m pip install -q torch
    elif "$python" -m pip install -q --dry-run --ignore-installed --report - "$cpu_torch" | grep -q '"name": "nvidia-'; then
        # What pip would take here is the CUDA build; uv knows where the CPU builds are.
        "$python" -m pip install -q uv
        "$venv/bin/uv" pip install -q --python "$python" --torch-backend cpu "$cpu_torch"
    else
        "$python" -m pip install -q "$cpu_torch"
    fi
fi
"$python" -m pip install -q -e ".[dev]"
