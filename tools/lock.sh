#!/usr/bin/env bash
# Writes requirements.lock: exact, hashed versions of everything that pyproject.toml asks for, for Python 3.11 and newer on
# any system. Versions that are in the file stay while the ranges allow them; `tools/lock.sh --upgrade` takes the newest.
# torch and what only its CUDA builds need stay out: tools/setup.sh chooses the build.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"${PYTHON:-python3}" -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip install -q uv
compile=("$scratch/venv/bin/uv" pip compile -q --universal --python-version 3.11)

apart=()
for package in $("${compile[@]}" --no-header --no-annotate tools/torch.txt | sed -nE 's/^((torch|triton|nvidia|cuda)[a-z0-9-]*)==.*/\1/p'); do
    apart+=(--no-emit-package "$package")
done
"${compile[@]}" "$@" --generate-hashes --no-emit-index-url --custom-compile-command "make lock" "${apart[@]}" \
    --constraints tools/torch.txt --extra dev --extra gguf --group setup pyproject.toml -o requirements.lock
if grep -nE '^(torch|triton|nvidia|cuda)|://' requirements.lock >&2; then
    echo "lock: requirements.lock holds the lines above, which it must not" >&2
    exit 1
fi
