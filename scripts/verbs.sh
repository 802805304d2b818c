#!/usr/bin/env bash
# Compares our declarations of libibverbs with the C headers of rdma-core, by the C compiler, and with
# rdma-sys. The headers, and the libclang 14 that rdma-sys needs, are unpacked from Debian 12's packages
# under target/verbs; nothing is installed.
# Exit status: 0 they agree, 77 cannot run here.
set -euo pipefail
# shellcheck source=scripts/guest/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/guest/lib.sh"

ROOT="$REPOSITORY/target/verbs"
PACKAGES=(libibverbs-dev librdmacm-dev libibverbs1 librdmacm1 libnl-3-dev libnl-route-3-dev libnl-3-200
    libnl-route-3-200 libclang-14-dev libclang1-14 libclang-common-14-dev libllvm14 libedit2 libbsd0
    libmd0 libz3-4)

fetch() {
    local work deb
    [ "$(uname -m)" = x86_64 ] || not_run "the packages are those of x86-64"
    command -v apt-get >/dev/null || not_run "the headers come from Debian packages and there is no apt-get"
    mkdir -p "$REPOSITORY/target"
    work="$(mktemp -d "$REPOSITORY/target/verbs.XXXXXX")"
    debian_tree "$work/apt" amd64
    mkdir -p "$work/debs" "$work/root"
    (cd "$work/debs" && debian_apt "$work/apt" amd64 apt-get download "${PACKAGES[@]}" >/dev/null)
    for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$work/root"; done
    rm -rf "$ROOT"
    mv "$work/root" "$ROOT"
    rm -rf "$work"
}

[ -d "$ROOT" ] || fetch
need_tool pkg-config pkg-config
libraries="$ROOT/usr/lib/x86_64-linux-gnu"
cd "$REPOSITORY"
RINGLANE_VERBS_INCLUDE="$ROOT/usr/include" cargo test -q --locked -p ringlane-transport-rdma --lib layout
export PKG_CONFIG_PATH="$libraries/pkgconfig:$ROOT/usr/share/pkgconfig" PKG_CONFIG_SYSROOT_DIR="$ROOT"
export LIBCLANG_PATH="$ROOT/usr/lib/llvm-14/lib" LD_LIBRARY_PATH="$libraries" LIBRARY_PATH="$libraries"
export BINDGEN_EXTRA_CLANG_ARGS="-I$ROOT/usr/include -I$ROOT/usr/lib/llvm-14/lib/clang/14.0.6/include"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$REPOSITORY/target}/verbs-layout"
cargo test -q --locked --manifest-path tests/verbs-layout/Cargo.toml
