#!/bin/sh
# Pins the images of compose.yaml and Dockerfile to the digests that their tags have today. Change a tag (in compose.yaml
# it is the comment), run it, look at the diff. Called by `make pin-images`; needs docker with buildx, asks the registry.
set -eu
cd "$(dirname "$0")"
for image in $(sed -nE -e 's/^ *image: ([^@ ]+)@sha256:[0-9a-f]{64} # ([^ ]+).*/\1:\2/p' \
        -e 's/^FROM ([^@ ]+:[^@ ]+)@sha256:.*/\1/p' compose.yaml Dockerfile); do
    digest=$(docker buildx imagetools inspect "$image" --format '{{.Manifest.Digest}}')
    sed -i -E "s#(${image%:*}(:[^@ ]+)?@)sha256:[0-9a-f]{64}#\1$digest#" compose.yaml Dockerfile
    echo "$image@$digest"
done
