#!/bin/sh
# Writes the hashed locks of the tests from the dependency groups of pyproject.toml: dev.txt with the SDK that is judged
# in full, and one lock for each older SDK, which cannot share an environment with it. The broker itself needs nothing.
# No index address is recorded, so that any mirror can serve them. Needs uv (https://docs.astral.sh/uv/) and npm.
set -eu
cd "$(dirname "$0")/.."
compile() { # compile GROUP OUTPUT
    uv pip compile --group "$1" --python-version 3.11 --universal --generate-hashes --no-emit-index-url \
        --no-annotate --no-header --quiet -o "requirements/$2"
}
compile dev dev.txt
compile sdk-7_14_0 sdk-7.14.0.txt
compile sdk-7_14_3 sdk-7.14.3.txt
cd tests/protocol/javascript
npm install --package-lock-only --omit-lockfile-registry-resolved --no-audit --no-fund --silent
