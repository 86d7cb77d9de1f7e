#!/usr/bin/env bash
# A short real path through everything, with whatever versions the given environment holds: the drafters' golden vectors,
# a recording timed live, synthesised traces, a simulation, a search and a report.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$(cd "${1:?usage: tools/short_path.sh VENV}" && pwd)
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
export PATH=$venv/bin:$PATH NUMBA_CACHE_DIR=$venv/numba

step() { # COMMAND...: shows and runs it, and says how long it took
    local begin=$SECONDS
    echo "\$ $*"
    "$@" || { echo "short path: failed in \`$*\`" >&2; exit 1; }
    echo "  ($((SECONDS - begin)) s)"
}

python -m pip list --format freeze | paste -sd " " -
step python -m pytest -q -p no:cacheprovider tests/drafters/test_golden.py
step harness run suites/math_code_chat --limit 1 --out "$out"
step harness synthesize paper:qwen3-4b --responses-per-task 8 --output-tokens 128 --out "$out"
step harness simulate latest --hardware h100/qwen3-4b --concurrency 8 --seconds 30 --decision-draws 20 --out "$out"
step tuner search --hardware h100/qwen3-4b --concurrency 8 --trials 8 --seconds 30 --confirmation-draws 5 --decision-draws 20 --actors 0 --out "$out"
step harness report latest --out "$out"
