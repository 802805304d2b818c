#!/usr/bin/env bash
# Prints instructions per operation of the hot path as a Markdown table, counted by callgrind.
#
# Usage: scripts/bench/instructions.sh [CASE...]
# Needs valgrind and cargo. Counts repeat from run to run, whatever else the machine does, as long
# as compiler and C library stay the same. Each case runs with a count and with twice the count: the
# difference is the loop without the set-up.
set -euo pipefail
cd "$(dirname "$0")/../.."

count=16000
cases=("$@")

# Builds a benchmark and prints the path of its binary.
binary() {
    cargo bench --quiet -p "$1" --bench "$2" --no-run --message-format=json |
        python3 -c 'import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == sys.argv[1]:
        print(message["executable"])' "$2"
}

# Instructions of one run.
instructions() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$@" 2>&1 |
        awk '/Collected/ { print $4 }'
}

wanted() {
    [ "${#cases[@]}" -eq 0 ] || [[ " ${cases[*]} " == *" $1 "* ]]
}

table() {
    local package=$1 bench=$2 path name
    path=$(binary "$package" "$bench")
    while read -r name; do
        wanted "$name" || continue
        local once twice
        once=$(instructions "$path" "$name" "$count")
        twice=$(instructions "$path" "$name" $((2 * count)))
        echo "| \`$name\` | $(((twice - once) / count)) |"
    done < <("$path" --list)
}

echo "| case | instructions per operation |"
echo "| --- | --- |"
table ringlane publish_path
table ringlane-dataplane hot_path
