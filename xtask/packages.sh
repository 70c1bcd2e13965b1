#!/bin/sh
# Installs the system packages that the build needs, or says exactly which are missing. A shell script because a machine without a
# C linker cannot compile xtask yet. Silent and offline when nothing is missing.
set -eu

say() { printf '%s\n' "$*" >&2; }

macos() {
    status=0
    xcode-select -p >/dev/null 2>&1 || { say "missing: Xcode command line tools; run: xcode-select --install"; status=1; }
    xcrun --find metal >/dev/null 2>&1 || { say "missing: the Metal compiler; install Xcode and run: xcodebuild -downloadComponent MetalToolchain"; status=1; }
    command -v cmake >/dev/null 2>&1 || { say "missing: cmake; run: brew install cmake"; status=1; }
    command -v python3 >/dev/null 2>&1 || { say "missing: Python 3; run: brew install python3"; status=1; }
    exit $status
}

installed() { dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }

debian() {
    missing=""
    # procps has kill and ps, which the demo and the tests run.
    for package in g++ libclang-dev libopenblas-dev procps; do
        installed "$package" || missing="$missing $package"
    done
    python3 -m pip --version >/dev/null 2>&1 || missing="$missing python3-pip"
    python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || missing="$missing python3-venv"
    [ -n "$missing" ] || exit 0

    say "missing system packages:$missing"
    if [ "$(id -u)" -eq 0 ]; then
        as_root=""
    elif sudo -n true 2>/dev/null; then
        as_root="sudo -n"
    else
        say "install them and start again: sudo apt-get update && sudo apt-get install -y --no-install-recommends$missing"
        exit 1
    fi
    say "installing them with apt-get"
    $as_root apt-get update -q >&2
    # The list is split on purpose: one word per package.
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing >&2
}

other() {
    say "neither Debian, Ubuntu nor macOS: a C++20 compiler, libclang, OpenBLAS and Python 3 with pip and venv must be installed"
    command -v c++ >/dev/null 2>&1 || { say "missing: c++"; exit 1; }
    python3 -m pip --version >/dev/null 2>&1 || { say "missing: pip for python3"; exit 1; }
}

case "$(uname -s)" in
    Darwin) macos ;;
    *) if command -v dpkg-query >/dev/null 2>&1; then debian; else other; fi ;;
esac
