#!/usr/bin/env bash
# Builds Ringlane and starts it. Installs what building needs and is missing.
#
#   scripts/run.sh [ARGUMENT...]      arguments go to `ringlane serve`, e.g. --cores 0,1 or -p 1884
#
# Without arguments: MQTT on 127.0.0.1:1883, WebSocket on 8083, control plane on 18083, every core,
# data in ./ringlane-data.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_ringlane
exec "$TARGET/release/ringlane" serve "$@"
