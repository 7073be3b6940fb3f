#!/bin/sh
# What a run installs, for those who must know: `bill` writes build/sbom.json (CycloneDX) of all that requirements.lock pins,
# `audit` asks PyPI's database for known holes in it. The programs are pinned in supply.lock and get a venv of their own.
# Called by `make bill` and `make audit`, which give the Python.
set -eu
cd "$(dirname "$0")/.."
bin=build/supply/bin
if ! cmp -s infra/supply.lock build/supply/installed.lock; then
    "${2:-python3}" -m venv --clear build/supply
    "$bin/python" -m pip install --quiet --no-deps -r infra/supply.lock
    cp infra/supply.lock build/supply/installed.lock
fi
case $1 in
bill)
    "$bin/cyclonedx-py" requirements --of JSON -o build/sbom.json requirements.lock
    echo "build/sbom.json"
    ;;
audit)
    # a mirror of packages need not have what is known of them, and "not found" would look like "no holes"
    known=$(sed -nE 's,^(prefect)==(.*),https://pypi.org/pypi/\1/\2/json,p' requirements.lock)
    "$bin/python" -c 'import requests, sys; requests.get(sys.argv[1], timeout=20).json()["vulnerabilities"]' "$known" 2> /dev/null \
        || { echo "no audit: PyPI's database of known holes cannot be reached from here" >&2; exit 0; }
    "$bin/pip-audit" --strict --disable-pip --no-deps -r requirements.lock
    ;;
esac
