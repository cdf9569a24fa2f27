# shellcheck shell=bash
# What the scripts in servers/ share; to be sourced by them.
#
# Each of them installs what is missing, runs the server itself, on a free port of
# 127.0.0.1 and with its files in a temporary directory, has the tests of the crates
# that talk to it run, and ends it. Nothing is started as a service of the system.
#
# Tests and libraries are those of the package greenlet-real; all are built once, for
# whichever script comes first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export DEBIAN_FRONTEND=noninteractive
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}

dir=$(mktemp -d)
# Servers that give up root's rights have to get at what is in there.
chmod 755 "$dir"
server=
policy=
finish() {
    local code=$?
    trap - EXIT INT TERM
    if [ -n "$server" ]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    [ -z "$policy" ] || rm -f "$policy"
    if [ "$code" -ne 0 ] && [ -s "$dir/log" ]; then
        echo "what the server said:"
        tail -n 20 "$dir/log" | sed 's/^/   | /'
    fi
    rm -rf "$dir"
    exit "$code"
}
trap finish EXIT
trap 'exit 1' INT TERM

# install PACKAGE...: from Debian, and without starting what comes with it.
install() {
    if [ "$(id -u)" -ne 0 ]; then
        echo "to be installed first: $*"
        return 1
    fi
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        policy=/usr/sbin/policy-rc.d
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    local get=(apt-get -o DPkg::Lock::Timeout=120 install --yes --no-install-recommends "$@")
    # The first may fail for want of a list of packages, or with an old one. Somebody else
    # may be fetching the lists, whose lock nobody waits for, and a mirror may stumble.
    local try
    for try in 1 2 3 4 5; do
        "${get[@]}" >"$dir/apt" 2>&1 && return
        [ "$try" -eq 1 ] || sleep 10
        apt-get -o APT::Update::Error-Mode=any update >>"$dir/apt" 2>&1 || true
    done
    "${get[@]}" >>"$dir/apt" 2>&1 || { cat "$dir/apt"; return 1; }
}

# need PROGRAM PACKAGE
need() {
    command -v "$1" >/dev/null || install "$2"
}

# Below the ports that the system gives out by itself.
free_port() {
    local port
    while port=$((20000 + RANDOM % 10000)); do
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "$port"
            return
        fi
    done
}

# start COMMAND...: the server, which answers at $port soon.
start() {
    "$@" >"$dir/log" 2>&1 &
    server=$!
    local _
    for _ in $(seq 200); do
        kill -0 "$server" 2>/dev/null || break
        if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            return
        fi
        sleep 0.05
    done
    echo "the server does not answer"
    return 1
}

# tests [NAME...]: those of these names, or all. One that hangs for a minute ends by itself.
tests() {
    local name names=()
    for name in "$@"; do names+=(--test "$name"); done
    # Two ends of 200 connections, and what the servers need.
    ulimit -Sn 4096
    pkg-config --exists libcurl openssl 2>/dev/null ||
        install libcurl4-openssl-dev libssl-dev pkg-config
    cargo test --quiet -p greenlet-real --features native "${names[@]}"
}

port=$(free_port)
