# What .ci/run and .ci/full share: checks that are run one after the other, and a last line that counts them.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
outcomes=()
passed=0
failed=0

check() { # NAME COMMAND...: runs it and counts it
    if attempt "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
}

attempt() { # NAME COMMAND...: runs it and remembers how it ended
    local name=$1 begin=$SECONDS outcome=passed
    shift
    printf '\n== %s\n' "$name"
    "$@" || outcome=FAILED
    outcomes+=("$(printf '%s %5d s  %s' "$outcome" $((SECONDS - begin)) "$name")")
    [ "$outcome" = passed ]
}

conclude() { # all outcomes, and how many passed; the exit code says whether all did
    printf '\n== %s\n' "$(basename "$0"), after $((SECONDS / 60)) minutes"
    printf '%s\n' "${outcomes[@]}"
    echo "$passed passed, $failed failed"
    exit $((failed > 0))
}

install_chromium() { # Debian's, for the report's browser checks; fails where there is no browser
    command -v chromium >/dev/null && return
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium >/dev/null
    fi
    command -v chromium >/dev/null
}

short_path() { # lowest|none: in an environment of its own, with the lowest or the newest versions that pyproject.toml allows
    bash tools/setup.sh "$scratch/$1" "$1" && timeout 900 bash tools/short_path.sh "$scratch/$1"
}

begin_newest() { # the short path with the newest versions, beside what comes next: most of it keeps one core busy
    short_path none >"$scratch/newest.log" 2>&1 &
    newest=$!
}

newest() { # waits for it; what it said
    local code=0
    wait "$newest" || code=$?
    cat "$scratch/newest.log"
    return "$code"
}

tests() { # style, types, contracts and tests, with what the lock says
    make test VENV="$scratch/locked"
}
