#!/bin/sh
# The documents as a site in build/site, search included, which loads nothing from elsewhere.
# mkdocs-material is pinned in site.lock and gets a venv of its own. Called by `make site`, which gives the Python.
set -eu
cd "$(dirname "$0")/.."
tools=build/site-tools
source=build/site-source
if ! cmp -s infra/site.lock $tools/installed.lock; then
    "${1:-python3}" -m venv --clear $tools
    $tools/bin/python -m pip install --quiet --no-deps -r infra/site.lock
    cp infra/site.lock $tools/installed.lock
fi
# as they lie in the clone, so that their links lead where they lead there
rm -rf $source
mkdir -p $source/benchmarks
for page in *.md; do ln -s "../../$page" "$source/$page"; done
ln -s ../../docs $source/docs
ln -s ../../infra/site.css $source/site.css
ln -s ../../../benchmarks/RESULTS.md $source/benchmarks/RESULTS.md
NO_MKDOCS_2_WARNING=1 $tools/bin/mkdocs build --quiet --strict --config-file infra/mkdocs.yml
echo "build/site/index.html; with search: python3 -m http.server --directory build/site"
