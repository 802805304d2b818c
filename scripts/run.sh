#!/usr/bin/env bash
# Builds Ringlane and starts it. Installs what building needs and is missing.
#
#   scripts/run.sh [ARGUMENT...]      arguments go to `ringlane serve`, e.g. --cores 0,1 or -p 1884
#
# Without arguments: MQTT on 127.0.0.1:1883, WebSocket on 8083, control plane on 18083, every core,
# data in $XDG_DATA_HOME/ringlane (~/.local/share/ringlane), where acknowledged messages survive crashes. --data-dir, a
# configuration file and RINGLANE_DATA_DIR win over that.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_ringlane
want_verbs
export STATE_DIRECTORY="${STATE_DIRECTORY:-${XDG_DATA_HOME:-$HOME/.local/share}/ringlane}"
exec "$TARGET/release/ringlane" serve "$@"
