#!/usr/bin/env bash
# Fuzzes the codec: the packet decoder, round trips, topic filters, and mqttbytes as second opinion.
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
cd "$ROOT/mqtt"
if [ "$#" -gt 0 ]; then targets=("$@"); else mapfile -t targets < <(cargo +nightly fuzz list); fi
[ "${#targets[@]}" -gt 0 ] || die "no fuzz targets in mqtt/fuzz"
export CARGO_TARGET_DIR="$TARGET/fuzz"
cargo +nightly fuzz build
ok=0 bad=()
for target in "${targets[@]}"; do
    say "$target: ${limit[*]}"
    if cargo +nightly fuzz run "$target" -- "${limit[@]}" -max_len=4096 -rss_limit_mb=1024 \
        -print_final_stats=1; then
        ok=$((ok + 1))
    else
        bad+=("$target")
    fi
done
printf '%d fuzz targets passed, %d failed %s\n' "$ok" "${#bad[@]}" "${bad[*]}"
[ "${#bad[@]}" -eq 0 ]
