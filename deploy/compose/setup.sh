#!/bin/sh
# Makes the passwords and keys of the compose project in deploy/compose/secrets, unless they are there.
#
#   sh deploy/compose/setup.sh
set -eu

folder=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)/secrets
umask 077
mkdir -p "$folder"
random() { od -An -N16 -tx1 /dev/urandom | tr -d ' \n'; }

for name in mqtt_password http_token grafana_password; do
    [ -s "$folder/$name" ] || random >"$folder/$name"
done
# Users besides edged: more devices may be added, a line for each.
[ -s "$folder/mosquitto_users" ] || {
    echo "edged:$(cat "$folder/mqtt_password")"
    for user in device dashboard operator; do echo "$user:$(random)"; done
} >"$folder/mosquitto_users"
# The containers run as other users than you; on this box only you may enter the folder.
chmod 644 "$folder"/*
echo "users and passwords of the broker: $folder/mosquitto_users"
echo "key of OpenAI's API at http://127.0.0.1:8080/v1: $folder/http_token"
