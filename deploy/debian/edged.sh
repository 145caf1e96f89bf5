#!/bin/sh
# -P and -s: no module of the current folder, nor of a person's own, comes before those of the package.
exec /usr/lib/edged/bin/python -P -s -m edged "$@"
