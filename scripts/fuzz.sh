#!/usr/bin/env bash
# Fuzzes the codec (the packet decoder, round trips, topic filters, mqttbytes as second opinion), the
# opening of a damaged log, and what nodes say to each other.
#
#   scripts/fuzz.sh [--smoke | --long] [TARGET...]
#
# --smoke (default) gives each target 8 seconds, --long 25 million executions or one hour. The corpus
# grows in mqtt/fuzz/corpus, what crashes is kept in mqtt/fuzz/artifacts. Needs the nightly toolchain.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

limit=(-max_total_time=8)
case "${1:-}" in
--smoke) shift ;;
--long)
    limit=(-runs=25000000 -max_total_time=3600)
    shift
    ;;
-*) die "unknown option $1" ;;
esac

need_fuzz
cd "$ROOT/mqtt/fuzz"
export CARGO_TARGET_DIR="$TARGET/fuzz"
SEEDS="$TARGET/fuzz/seeds"
# The crate forbids unsafe code: the address sanitizer would only cost executions.
FUZZ=(cargo +nightly fuzz)
BUILD=(--fuzz-dir . --sanitizer none)
if [ "$#" -gt 0 ]; then targets=("$@"); else mapfile -t targets < <("${FUZZ[@]}" list --fuzz-dir .); fi
[ "${#targets[@]}" -gt 0 ] || die "no fuzz targets in mqtt/fuzz"
cargo +nightly run -q --locked --example seeds -- "$SEEDS"
"${FUZZ[@]}" build "${BUILD[@]}"

# run_target NAME: the seeds are read, what is new goes to the corpus.
run_target() {
    local seeds="$SEEDS/packets"
    [ "$1" != topic ] || seeds="$SEEDS/topics"
    [ "$1" != log_open ] || seeds="$SEEDS/damages"
    mkdir -p "corpus/$1"
    "${FUZZ[@]}" run "${BUILD[@]}" "$1" "corpus/$1" "$seeds" -- \
        "${limit[@]}" -max_len=1024 -rss_limit_mb=2048 -verbosity=0 -print_final_stats=1
}

passed=0 failed=()
for target in "${targets[@]}"; do
    say "$target: ${limit[*]}"
    if run_target "$target"; then passed=$((passed + 1)); else failed+=("$target"); fi
done
printf '%d fuzz targets passed, %d failed %s\n' "$passed" "${#failed[@]}" "${failed[*]}"
[ "${#failed[@]}" -eq 0 ]
