#!/bin/bash
# Runs mpi_failure and checks how the job ends: failure_test.sh MPIEXEC PROGRAM RANKS MODE PATTERN...
# With MODE "none" it must succeed; otherwise the exit status must not be 0, each PATTERN must be in the output, and
# the end must come soon. No process may be left in either case.
set -u
mpiexec=$1 program=$2 ranks=$3 mode=$4
shift 4
readonly kLongestSeconds=45  # a busy machine takes long to start a job; a hang takes for ever
id="failure-$$-$RANDOM$RANDOM"

begin=$SECONDS
output=$(timeout --kill-after=5 90 "$mpiexec" -n "$ranks" --oversubscribe "$program" "$mode" "$id" 2>&1)
status=$?
elapsed=$((SECONDS - begin))

fail() {
  printf 'FAILED: %s\nexit status %s after %s s; the output was:\n%s\n' "$1" "$status" "$elapsed" "$output"
  exit 1
}

for _ in 1 2 3 4 5; do
  pgrep -f "$id" > /dev/null || break
  sleep 1
done
left=$(pgrep -af "$id") && fail "processes are left: $left"
if [ "$mode" = none ]; then
  [ "$status" -eq 0 ] || fail "a job in which nothing goes wrong"
  exit 0
fi
[ "$status" -ne 0 ] || fail "the exit status is 0"
[ "$status" -ne 124 ] || fail "the job did not end by itself"
[ "$elapsed" -le "$kLongestSeconds" ] || fail "it took more than $kLongestSeconds s"
for pattern in "$@"; do
  grep -qE -- "$pattern" <<< "$output" || fail "the output lacks: $pattern"
done
