#!/bin/sh
# Pins the newest versions that pyproject.toml allows: requirements.lock, and requirements-dev.lock with what tests need besides.
# requirements.hashes: the same with the digest of every file that the index has of each, all but torch, whose builds share
# a version and differ in content (`make setup HASHES=1`).
# What has no wheel for Linux on ARM keeps its mark: both locks are for every machine.
# Called by `make lock`, which gives the Python to build the throw-away environment with.
set -eu
python=${1:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
pins() { "$folder/v/bin/python" -m pip freeze --all --exclude-editable | sed -nE 's/^([A-Za-z0-9._-]+==[^+ ]+).*/\1/p' | grep -vE '^(pip|wheel)==' \
    | sed "s/^ffbpe==.*/& ; platform_machine != 'aarch64'/"; }
write() { { sed -n '/^#/p' "$1"; cat "$2"; } > "$folder/new" && mv "$folder/new" "$1"; }

"$python" -m venv "$folder/v"
# torch first and by version: an unpinned request takes the newest build with gigabytes of CUDA packages
"$folder/v/bin/python" -m pip install --quiet torch==2.13.0
"$folder/v/bin/python" -m pip install --quiet -e .
pins > "$folder/runtime"
"$folder/v/bin/python" -m pip install --quiet -e '.[dev]'
pins | grep -vxFf "$folder/runtime" > "$folder/dev"
write requirements.lock "$folder/runtime"
write requirements-dev.lock "$folder/dev"
"$folder/v/bin/python" -m pip install --quiet uv
grep -v '^torch==' "$folder/runtime" > "$folder/hashed"
"$folder/v/bin/uv" pip compile --quiet --universal --no-deps --no-header --no-annotate --generate-hashes --python-version 3.11 \
    "$folder/hashed" --output-file requirements.hashes
