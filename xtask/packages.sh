#!/bin/sh
# packages.sh [coverage]
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

# What only `make test` and `make coverage` need. They say themselves what is missing, and `make test` does without.
coverage() {
    llvm=llvm-$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
    command -v "llvm-cov-${llvm#llvm-}" >/dev/null 2>&1 && exit 0
    [ -x "$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin/llvm-cov" ] && exit 0
    if [ "$(id -u)" -eq 0 ]; then as_root=""; elif sudo -n true 2>/dev/null; then as_root="sudo -n"; else exit 0; fi
    command -v apt-get >/dev/null 2>&1 || exit 0
    say "installing $llvm with apt-get, for coverage"
    $as_root apt-get update -q >&2 || exit 0
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$llvm" >&2 || exit 0
    exit 0
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

[ "${1:-}" != coverage ] || coverage
case "$(uname -s)" in
    Darwin) macos ;;
    *) if command -v dpkg-query >/dev/null 2>&1; then debian; else other; fi ;;
esac
