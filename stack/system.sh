#!/bin/sh
# What Thalweg needs from the system: Java >= 17, Maven, redis-server, Python's venv; on Linux's arm64 also gcc and
# Python's headers: Faust has no wheel there, and built without them none of its Cython.
# As root on a Debian-like system it installs what is missing; elsewhere it says what to install, and stops.
# Usage: stack/system.sh [PYTHON [tests]]; with `tests` also what some tests need, without which they are skipped.
set -eu
python=${1:-python3}
purpose=${2:-}

has_java() {
    command -v java >/dev/null || return 1
    major=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
    [ "${major:-0}" -ge 17 ]
}

missing=""
has_java || missing="$missing openjdk-17-jre-headless"
command -v mvn >/dev/null || missing="$missing maven"
command -v redis-server >/dev/null || missing="$missing redis-server"
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
if [ "$(uname -sm)" = "Linux aarch64" ]; then
    command -v gcc >/dev/null || missing="$missing gcc libc6-dev"
    "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
        missing="$missing python3-dev"
fi
if [ "$purpose" = tests ]; then
    command -v prometheus >/dev/null || missing="$missing prometheus"
    command -v chromium >/dev/null || missing="$missing chromium"
fi
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "installing from Debian's packages:$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # Newer releases no longer have Java 17: any later one does.
    case "$missing" in *openjdk-17*)
        if ! apt-cache show openjdk-17-jre-headless >/dev/null 2>&1; then
            missing=$(echo "$missing" | sed 's/openjdk-17-jre-headless/default-jre-headless/')
        fi ;;
    esac
    # shellcheck disable=SC2086  # a list of words
    apt-get install -y -qq --no-install-recommends $missing
    exit 0
fi

if [ "$purpose" = tests ]; then
    echo "some tests are skipped; for all of them:  sudo apt-get update && sudo apt-get install -y$missing"
    exit 0
fi

cat >&2 <<TEXT
Thalweg needs what this machine doesn't have:$missing

Debian, Ubuntu:  sudo apt-get update && sudo apt-get install -y$missing
macOS:           brew install openjdk@17 maven redis python@3.12 && export PATH="\$(brew --prefix openjdk@17)/bin:\$PATH"

Then run it again.
TEXT
exit 1
