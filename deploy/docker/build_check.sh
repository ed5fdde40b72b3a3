#!/bin/sh
# Builds the images and sees that they keep their promises: no pip, not root, one clear line for a missing setting,
# Python as process 1, healthy on a read-only file system, SIGTERM ends it with status 0.
#
#   deploy/docker/build_check.sh [SERVICE...]          default: all four
#
# Needs docker or podman, and the base image (BASE, default docker.io/library/python:3.12-slim) or a registry to pull
# it from. Says SKIPPED, and why, where something is missing. In a sandbox without cgroups v2 or a registry:
#   mmdebstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm base.tar
#   podman import base.tar docker.io/library/python:3.12-slim
#   BUILD_FLAGS="--isolation chroot --pull-never -v /etc/ssl/certs:/etc/ssl/certs:ro"
#   ENGINE_FLAGS="--runtime runc"  RUN_FLAGS="--ulimit nofile=4096:4096 --ulimit nproc=4096:4096"
# (Debian's Python there is 3.11: it shows that the recipe is right, not that 3.12 runs the code.)
set -eu
cd "$(dirname "$0")/../.."
BASE=${BASE:-docker.io/library/python:3.12-slim}
BUILD_FLAGS=${BUILD_FLAGS:-}
ENGINE_FLAGS=${ENGINE_FLAGS:-}
RUN_FLAGS=${RUN_FLAGS:-}
HARDENED="--read-only --cap-drop=ALL --security-opt=no-new-privileges --tmpfs /tmp"
NOWHERE="Endpoint=sb://127.0.0.1;SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=SAS_KEY_VALUE;UseDevelopmentEmulator=true;"
NAME=ragbus-build-check-$$

skip() { echo "SKIPPED: $*"; exit 0; }
fail() { echo "FAILED: $*"; exit 1; }

if docker info >/dev/null 2>&1; then ENGINE=docker FORMAT=
elif command -v podman >/dev/null 2>&1; then ENGINE=podman FORMAT="--format docker" # OCI's has no HEALTHCHECK
else skip "neither a running docker nor podman is here"
fi
# shellcheck disable=SC2086  # flags are words
engine() { $ENGINE $ENGINE_FLAGS "$@" 2>"$LOG"; }
LOG=$(mktemp)
trap '$ENGINE rm -f "$NAME" >/dev/null 2>&1 || true; rm -f "$LOG"' EXIT
engine image inspect "$BASE" >/dev/null || engine pull "$BASE" >/dev/null \
    || skip "the base image $BASE is not here and cannot be pulled: $(tail -n 1 "$LOG")"

build() { # build SERVICE
    # shellcheck disable=SC2086
    $ENGINE build $BUILD_FLAGS $FORMAT --build-arg BASE="$BASE" --build-arg SERVICE="$1" \
        -f deploy/docker/Dockerfile -t "ragbus/$1:check" . >"$LOG" 2>&1 || { tail -n 20 "$LOG"; fail "$1: build"; }
}

in_image() { # in_image SERVICE COMMAND: what the command prints in a new container
    # shellcheck disable=SC2086
    engine run --rm $RUN_FLAGS $HARDENED --entrypoint /bin/sh "ragbus/$1:check" -c "$2"
}

check() { # check SERVICE
    [ "$(in_image "$1" 'id -u')" = 65532 ] || fail "$1: runs as another user than 65532"
    [ "$(in_image "$1" 'ls services | grep -v __')" = "$1" ] || fail "$1: carries another service's code"
    in_image "$1" 'python -m pip --version' >/dev/null && fail "$1: pip is in the image"
    # shellcheck disable=SC2086
    engine run --rm $RUN_FLAGS $HARDENED "ragbus/$1:check" >/dev/null && fail "$1: starts without a bus"
    grep -q "^$1: set RAGBUS_SERVICEBUS_CONNECTION_STRING" "$LOG" || fail "$1: does not name the missing setting"
    # shellcheck disable=SC2086
    engine run -d --name "$NAME" $RUN_FLAGS $HARDENED -v "$PWD/examples/onboarding:/etc/ragbus:ro" \
        -e RAGBUS_SERVICEBUS_CONNECTION_STRING="$NOWHERE" -e RAGBUS_MODEL_KEY=none -e RAGBUS_LAKE_FOLDER=/etc/ragbus/handbook \
        "ragbus/$1:check" >/dev/null || fail "$1: $(tail -n 1 "$LOG")"
    waited=0
    until engine exec "$NAME" python /opt/ragbus/healthcheck.py; do
        waited=$((waited + 1))
        [ $waited -lt 30 ] || { $ENGINE logs "$NAME" 2>&1 | tail -n 5; fail "$1: not healthy after 30 s"; }
        sleep 1
    done
    engine exec "$NAME" cat /proc/1/cmdline | tr '\0' ' ' | grep -q "^python -m services.$1" || fail "$1: process 1"
    engine stop -t 60 "$NAME" >/dev/null
    status=$($ENGINE inspect --format '{{.State.ExitCode}}' "$NAME" 2>/dev/null)
    engine rm -f "$NAME" >/dev/null
    [ "$status" = 0 ] || fail "$1: SIGTERM ended it with status $status"
    echo "ok: $1 ($($ENGINE image inspect --format '{{.Size}}' "ragbus/$1:check" | awk '{printf "%d MB", $1 / 1e6}') with its base)"
}

[ $# -gt 0 ] || set -- gateway retriever generator indexer
for service in "$@"; do
    build "$service"
    check "$service"
done
