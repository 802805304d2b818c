#!/usr/bin/env bash
# Runs the tests of the crates that contain unsafe code under what finds its defects.
#
#   scripts/sanitize.sh [asan|valgrind|miri]...      default: asan valgrind miri
#
# asan      AddressSanitizer with leak detection: the tests of the mailbox, the messages and the batches, and all of transport-uring's,
#           system calls and io_uring included. A nightly compiler; its prebuilt standard library will do.
# valgrind  memcheck, the stable compiler's code unchanged: the same, less the tests that move
#           megabytes within the driver's own deadlines, which no slowed-down process can meet.
# miri      the mailbox, the messages and the batches, interpreted: aliasing, data races, leaks. No system calls.
#
# Each check that cannot run here is named; the exit status is then 77 unless another one failed.
set -euo pipefail
# shellcheck source=scripts/guest/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/guest/lib.sh"

SUPPRESSIONS="$REPOSITORY/scripts/sanitize"
TRIPLE="$(rustc -vV | awk '$1 == "host:" { print $2 }')"
NIGHTLY="${RINGLANE_NIGHTLY:-nightly}"
# The unsafe code of the data plane is in the mailbox and in the arenas of batches, and in what their items are used for.
DATAPLANE=(runtime::mailbox runtime::mesh message batch::)
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$REPOSITORY/target}/sanitize"

need_nightly() {
    cargo "+$NIGHTLY" --version >/dev/null 2>&1 ||
        { say "$1: NOT RUN: no toolchain $NIGHTLY (rustup toolchain install nightly)"; return "$NOT_RUN"; }
}

run_asan() {
    need_nightly asan || return
    local environment=(RUSTFLAGS=-Zsanitizer=address RUST_BACKTRACE=0 RINGLANE_STRESS_ITEMS=100000
        LSAN_OPTIONS="suppressions=$SUPPRESSIONS/lsan.supp:print_suppressions=0")
    local test=(cargo "+$NIGHTLY" test --target "$TRIPLE" --no-fail-fast)
    env "${environment[@]}" "${test[@]}" -p ringlane-dataplane --lib -- "${DATAPLANE[@]}" &&
        env "${environment[@]}" "${test[@]}" -p ringlane-dataplane --test two_cores &&
        env "${environment[@]}" "${test[@]}" -p ringlane-transport-uring --lib --tests
}

run_valgrind() {
    need_tool valgrind valgrind
    local runner="CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$TRIPLE")_RUNNER" options
    options="--quiet --error-exitcode=99 --fair-sched=yes --suppressions=$SUPPRESSIONS/valgrind.supp"
    options+=" --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite"
    local environment=("$runner=valgrind $options" RUST_BACKTRACE=0 RINGLANE_STRESS_ITEMS=2000
        PROPTEST_CASES=16)
    local test=(cargo test --target "$TRIPLE" --no-fail-fast)
    env "${environment[@]}" "${test[@]}" -p ringlane-dataplane --lib -- "${DATAPLANE[@]}" &&
        env "${environment[@]}" "${test[@]}" -p ringlane-transport-uring --lib --test moving -- \
            --test-threads=2
}

run_miri() {
    need_nightly miri || return
    if ! cargo "+$NIGHTLY" miri --version >/dev/null 2>&1; then
        rustup component add --toolchain "$NIGHTLY" miri rust-src >&2 ||
            { say "miri: NOT RUN: rustup cannot fetch the component"; return "$NOT_RUN"; }
    fi
    # Isolation off: proptest reads the environment. The meter of messages is leaked by design, and
    # Miri has no suppressions: leaks count everywhere else.
    local test=(cargo "+$NIGHTLY" miri test -p ringlane-dataplane --lib --)
    local flags=-Zmiri-disable-isolation
    export RINGLANE_STRESS_ITEMS=60 PROPTEST_CASES=1 PROPTEST_MAX_SHRINK_ITERS=0
    MIRIFLAGS="$flags" "${test[@]}" runtime::mailbox runtime::mesh &&
        MIRIFLAGS="$flags -Zmiri-ignore-leaks" "${test[@]}" message batch::
}

cd "$REPOSITORY"
[ "$#" -gt 0 ] || set -- asan valgrind miri
result=0
for check in "$@"; do
    code=0
    ("run_$check") || code=$?
    say "$check: ended with $code"
    if [ "$code" -ne 0 ] && { [ "$code" -ne "$NOT_RUN" ] || [ "$result" -eq 0 ]; }; then result="$code"; fi
done
exit "$result"
