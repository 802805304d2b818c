#!/usr/bin/env bash
# Runs the tests stage by stage. Installs what a stage needs and is missing.
#
#   scripts/test.sh             every stage of scripts/stages.tsv
#   scripts/test.sh STAGE...    some of them
#
# A stage that cannot run on this machine is listed as NOT RUN with its reason above; with CI=true
# that fails the run. The exit status is 0 only if nothing failed.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

STAGES="$ROOT/scripts/stages.tsv"
BUDGET_SECONDS_MAX=2700
REPORT=()
passed=0 failed=0 not_run=0

# The budget of a stage, in seconds; nothing if there is no such stage.
budget_of() { awk -F '\t' -v stage="$1" '$1 == stage { print $2 }' "$STAGES"; }

all_stages() { awk -F '\t' '/^[^#]/ { print $1 }' "$STAGES"; }

check_budgets() {
    local sum
    sum="$(awk -F '\t' '/^[^#]/ { sum += $2 } END { print sum }' "$STAGES")"
    [ "$sum" -le "$BUDGET_SECONDS_MAX" ] ||
        die "the budgets in scripts/stages.tsv add up to $sum s, more than $BUDGET_SECONDS_MAX s"
}

# run_stage NAME BUDGET: runs it, remembers the line of the report.
run_stage() {
    local name="$1" budget="$2" code=0 started result seconds
    printf '\n=== %s (budget %s s)\n' "$name" "$budget"
    started="$SECONDS"
    timeout --kill-after=20 "$((4 * budget))" "$ROOT/scripts/stages.sh" "$name" </dev/null || code="$?"
    seconds="$((SECONDS - started))"
    case "$code" in
    0) result=passed passed=$((passed + 1)) ;;
    "$NOT_RUN") result="NOT RUN" not_run=$((not_run + 1)) ;;
    124 | 137) result="FAILED (stopped)" failed=$((failed + 1)) ;;
    *) result=FAILED failed=$((failed + 1)) ;;
    esac
    [ "$seconds" -le "$budget" ] || result="$result, over budget"
    REPORT+=("$(printf '%-15s %6d s of %4d s  %s' "$name" "$seconds" "$budget" "$result")")
}

check_budgets
if [ "$#" -eq 0 ]; then mapfile -t chosen < <(all_stages); else chosen=("$@"); fi
for name in "${chosen[@]}"; do
    [ -n "$(budget_of "$name")" ] || die "no stage $name; there are: $(all_stages | tr '\n' ' ')"
done
for name in "${chosen[@]}"; do
    run_stage "$name" "$(budget_of "$name")"
done

printf '\n'
printf '%s\n' "${REPORT[@]}"
if [ "${CI:-}" = true ]; then failed=$((failed + not_run)); fi
printf '%d passed, %d failed, %d not run, %d s\n' "$passed" "$failed" "$not_run" "$SECONDS"
[ "$failed" -eq 0 ]
