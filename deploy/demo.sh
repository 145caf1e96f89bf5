#!/bin/sh
# Shows edged at work: makes the environment, gets the small model, starts a private broker and the daemon, and
# sends messages by an independent MQTT client. Takes what `edged demo` takes; leaves nothing running.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
venv=${EDGED_VENV:-$here/.venv}
# The test environment has all that the demo needs; a new one is made only if there is none.
if [ ! -f "$venv/.edged-tests" ]; then
    sh "$here/deploy/install.sh" --venv "$venv" --extras demo
fi
export EDGED_MODEL_DIR="${EDGED_MODEL_DIR:-$here/.cache/models}"
exec "$venv/bin/edged" demo "$@"
