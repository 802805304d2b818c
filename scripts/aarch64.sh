#!/usr/bin/env bash
# Builds the codec and the data plane for aarch64 and runs their tests under qemu-user.
#
#   scripts/aarch64.sh [CARGO_TEST_ARGUMENT...]
#
# The standard library for aarch64 comes from rustup, for the compiler that rust-toolchain.toml pins.
# Where rustup cannot fetch it (or RINGLANE_AARCH64_STD=debian says so), Debian 12's security archive
# serves: it has a current compiler with its arm64 library (rustc-web, libstd-rust-web-dev).
# Those packages are unpacked under target/aarch64, nothing of them is installed.
# Exit status: cargo's; 77 if it cannot run here.
#
# qemu-user runs on x86-64's memory order, which is stronger than aarch64's: this stage shows that
# the code builds and computes the same there, loom shows the orderings.
set -euo pipefail
# shellcheck source=scripts/guest/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/guest/lib.sh"

TRIPLE=aarch64-unknown-linux-gnu
PACKAGES=(-p ringlane-mqtt -p ringlane-dataplane)
CACHE="$REPOSITORY/target/aarch64"

# The library that fits the pinned compiler.
std_from_rustup() {
    [ "${RINGLANE_AARCH64_STD:-rustup}" = rustup ] || return 1
    command -v rustup >/dev/null || return 1
    (cd "$REPOSITORY" && rustup target add "$TRIPLE" >&2)
}

# Debian's compiler: the amd64 one with the arm64 library beside its own, driven by the host's cargo.
std_from_debian() {
    local root="$CACHE/debian" deb tool
    if [ ! -x "$CACHE/rustc" ]; then
        command -v apt-get >/dev/null || not_run "rustup has no $TRIPLE and there is no apt-get"
        rm -rf "$CACHE"
        mkdir -p "$root" "$CACHE/debs"
        debian_fetch amd64 '^(rustc-web|libstd-rust-web|libllvm)' rustc-web
        debian_fetch arm64 '^libstd-rust-web-dev' libstd-rust-web-dev
        for deb in "$CACHE"/debs/*.deb; do
            dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root" --no-same-owner --keep-directory-symlink
        done
        for tool in rustdoc rustc; do
            printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' \
                "$root/usr/lib/x86_64-linux-gnu" "$root/usr/bin/$tool" >"$CACHE/$tool"
            chmod +x "$CACHE/$tool"
        done
    fi
    export RUSTC="$CACHE/rustc" RUSTDOC="$CACHE/rustdoc"
}

# debian_fetch ARCHITECTURE PATTERN PACKAGE: those packages of the closure whose names fit.
debian_fetch() {
    local architecture="$1" pattern="$2" package="$3" tree="$CACHE/apt-$1" names
    debian_tree "$tree" "$architecture"
    mapfile -t names < <(debian_apt "$tree" "$architecture" apt-get install -y --simulate "$package" |
        awk -v pattern="$pattern" '$1 == "Inst" && $2 ~ pattern { print $2 }')
    (cd "$CACHE/debs" && debian_apt "$tree" "$architecture" apt-get download "${names[@]}" >/dev/null)
}

need_tool aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu
[ -e /usr/aarch64-linux-gnu/lib/libc.so ] || install_packages libc6-dev-arm64-cross
need_tool qemu-aarch64 qemu-user
# Emulated, a property test with its usual 256 cases takes most of the time.
export PROPTEST_CASES="${PROPTEST_CASES:-64}"
std_from_rustup || std_from_debian
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu max"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$CACHE/target}"
cd "$REPOSITORY"
say "aarch64 with $("${RUSTC:-rustc}" --version)"
# Tests that open a log again at every byte or after every turn: emulated, they take minutes, and what they show is no
# processor's own.
SKIPPED=(replay_begins_at_a_batch_in_every_turn what_was_flushed_survives_every_crash power_that_is_lost_in_any_step
    a_block_of_an_older_epoch a_block_of_another_log)
cargo test --no-fail-fast --target "$TRIPLE" "${PACKAGES[@]}" "$@" -- "${SKIPPED[@]/#/--skip=}"
