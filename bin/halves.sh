#!/usr/bin/env bash
# All tests below `tests` in two halves at once, each with servers of its own: much of the time
# goes by in waiting. The arguments are the places of the second half.
#
# Two halves on few cores starve each other at times, and a browser or a server is then later
# than a test waits. What failed runs again with nothing beside it, and has to pass there; it is
# named at the end. Where a race itself would be the finding, a failure counts at once.
set -euo pipefail

AGAIN_MAX=8
RACES='^(FAILED|ERROR) tests/(invariants|threats|chaos)/'
NAMES='^(FAILED|ERROR) tests/'

halves=("$@")
logs=$(mktemp -d)
second=
# A trap that fails would be the script's own status.
trap 'kill "$second" 2>/dev/null || true; rm -rf -- "$logs"' EXIT

step() {
    echo "== $*"
}

# Args: the half's name, pytest's arguments.
run_half() {
    local name=$1
    shift
    python -m pytest -o cache_dir="$logs/$name.cache" "$@" 2>&1
}

# Args: the half's name, its status. The same status, or 0 if all that failed passed alone.
run_again() {
    local name=$1 rc=$2 count
    [ "$rc" != 0 ] || return 0
    count=$(grep -cE "$NAMES" "$logs/$name" || true)
    # 1: tests failed, and nothing else went wrong.
    if [ "$rc" != 1 ] || [ "$count" = 0 ] || [ "$count" -gt "$AGAIN_MAX" ] ||
        grep -qE "$RACES" "$logs/$name"; then
        return "$rc"
    fi
    step "again, alone: what failed in the $name half"
    run_half "$name" --last-failed --last-failed-no-failures none tests
}

# Not by the function: what is ended then is pytest, and not a shell that waits for it.
python -m pytest -o cache_dir="$logs/second.cache" "${halves[@]}" >"$logs/second" 2>&1 &
second=$!
first_rc=0 second_rc=0
run_half first tests "${halves[@]/#/--ignore=}" | tee -- "$logs/first" || first_rc=$?
wait "$second" || second_rc=$?
step "pytest, the other half"
cat -- "$logs/second"

rc=0
run_again first "$first_rc" || rc=$?
run_again second "$second_rc" || rc=$?
if [ "$first_rc" != 0 ] && [ "$rc" != 0 ]; then
    # The last thing to be read, where only the end of a long output is kept.
    step "what failed in the first half"
    sed -n '/^=* \(ERRORS\|FAILURES\) =*$/,$p' "$logs/first"
fi
if [ "$first_rc$second_rc" != 00 ] && [ "$rc" = 0 ]; then
    step "passed; these did so only with nothing beside them"
    grep -hE "$NAMES" "$logs/first" "$logs/second"
fi
exit "$rc"
