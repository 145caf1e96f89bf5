#!/bin/sh
# Puts Home Assistant's Python package into a virtual environment of its own, for its schemas and templates. The newest
# release that runs on PYTHON; for 3.11 that is 2024.3.
#
#   sh tests/fetch_homeassistant.sh PYTHON DIR
set -eu
python=$1
dir=$2
works() { "$dir/bin/python" -c 'from homeassistant.components.mqtt import sensor, binary_sensor, text' 2>/dev/null; }

works && exit 0
echo "tests: installing Home Assistant's package into $dir" >&2
rm -rf "$dir"
"$python" -m venv "$dir"
# The paho release of that time: the package does not pin what its integrations need.
"$dir/bin/python" -m pip install -q --disable-pip-version-check homeassistant "paho-mqtt<2"
works || {
    "$dir/bin/python" -c 'from homeassistant.components.mqtt import sensor, binary_sensor, text'
    exit 1
}
