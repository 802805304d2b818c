# shellcheck shell=bash
# What the scripts share: places, messages, and installing what a machine lacks.
#
# Everything here is idempotent and uses the network only for what is missing. System packages need
# root or a sudo that asks no question; without it the command to run is printed instead.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
TARGET="${CARGO_TARGET_DIR:-$ROOT/target}"
TOOLS="$TARGET/tools"
VENV="$TARGET/clients-venv"
CLIENTS="$ROOT/tests/clients"
# Exit status of what cannot run here, as automake and scripts/guest/run.sh use it.
NOT_RUN=77

export PATH="$TOOLS/bin:$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

not_run() {
    say "NOT RUN: $*"
    exit "$NOT_RUN"
}

have() { command -v "$1" >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif have sudo && sudo -n true 2>/dev/null; then
        sudo -n "$@"
    else
        say "this needs root; please run: $*"
        return 1
    fi
}

# The names of one package: Debian's and Ubuntu's, then openEuler's, Fedora's and RHEL's.
# openEuler has mosquitto in its EPOL repository, which a minimal installation may not have enabled.
package_name() {
    case "$1:$2" in
    c-compiler:apt) echo build-essential ;;
    c-compiler:dnf) echo gcc gcc-c++ make ;;
    venv:apt) echo python3-venv python3-pip ;;
    venv:dnf) echo python3-pip ;;
    mosquitto-clients:dnf) echo mosquitto ;;
    chromium-driver:dnf) echo chromedriver ;;
    verbs:apt) echo libibverbs1 ibverbs-providers ;;
    verbs:dnf) echo rdma-core ;;
    qemu:apt) echo qemu-system-x86 ;;
    qemu:dnf) echo qemu ;;
    *) echo "$1" ;;
    esac
}

# install PACKAGE...: by the package manager that is there; fails if that is not possible.
install() {
    local manager name names=()
    if have apt-get; then manager=apt; elif have dnf; then manager=dnf; else manager=none; fi
    for name in "$@"; do
        # shellcheck disable=SC2207 # package names have no spaces
        names+=($(package_name "$name" "$manager"))
    done
    case "$manager" in
    apt)
        say "installing ${names[*]}"
        as_root apt-get -qq update >&2 || true
        as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get -qq install -y --no-install-recommends "${names[@]}" >&2
        ;;
    dnf)
        say "installing ${names[*]}"
        as_root dnf -q install -y "${names[@]}" >&2
        ;;
    none)
        say "neither apt-get nor dnf is here; please install: ${names[*]}"
        return 1
        ;;
    esac
}

# A compiler and linker for C, which Rust's linking needs, and what fetches the rest.
need_compiler() {
    local missing=()
    have cc || missing+=(c-compiler)
    have curl || missing+=(curl)
    have git || missing+=(git)
    [ -e /etc/ssl/certs/ca-certificates.crt ] || [ -e /etc/pki/tls/certs/ca-bundle.crt ] ||
        missing+=(ca-certificates)
    [ "${#missing[@]}" -eq 0 ] || install "${missing[@]}" || die "a C compiler, curl and git are needed"
}

# cargo, by rustup if it is missing. rust-toolchain.toml names the version, and rustup's cargo fetches
# it at the first call. No distribution's own Rust is new enough.
need_rust() {
    need_compiler
    if ! have cargo; then
        say "installing Rust by rustup (https://rustup.rs) for this user"
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
            sh -s -- -y --profile minimal --default-toolchain none --no-modify-path >&2 ||
            die "cargo is missing and rustup could not be fetched; see https://rustup.rs"
    fi
    (cd "$ROOT" && cargo --version >/dev/null) ||
        die "cargo does not start with the toolchain that rust-toolchain.toml names"
}

need_python() {
    have python3 || install python3 || not_run "python3 is missing"
}

# pytest and paho-mqtt in a virtual environment of their own, made anew when the pins change.
need_venv() {
    need_python
    local stamp="$VENV/requirements.txt"
    cmp -s "$CLIENTS/requirements.txt" "$stamp" && "$VENV/bin/python" -c 'import pytest' 2>/dev/null && return
    python3 -c 'import venv, ensurepip' 2>/dev/null || install venv || not_run "python3 has no venv module"
    rm -rf "$VENV"
    python3 -m venv "$VENV"
    "$VENV/bin/pip" install -q --disable-pip-version-check -r "$CLIENTS/requirements.txt" ||
        not_run "the packages of tests/clients/requirements.txt cannot be fetched"
    cp "$CLIENTS/requirements.txt" "$stamp"
}

# MQTT.js beside its tests, as package-lock.json pins it.
need_mqttjs() {
    local modules="$CLIENTS/mqttjs/node_modules"
    have node || install nodejs || not_run "node is missing"
    [ "$(node -p 'process.versions.node.split(".")[0]')" -ge 18 ] ||
        not_run "node $(node --version) is too old, 18 is needed"
    cmp -s "$CLIENTS/mqttjs/package-lock.json" "$modules/.ringlane-lock" && return
    have npm || install npm || not_run "npm is missing"
    (cd "$CLIENTS/mqttjs" && npm ci --silent --no-audit --no-fund) ||
        not_run "MQTT.js cannot be fetched"
    cp "$CLIENTS/mqttjs/package-lock.json" "$modules/.ringlane-lock"
}

# mosquitto_pub, mosquitto_sub and mosquitto_rr; fails where no repository has them.
need_mosquitto_clients() {
    have mosquitto_sub || install mosquitto-clients
}

# etcd: its program alone where Debian's package can be unpacked, because installing that starts a service;
# else the package. Fails where no repository has it.
need_etcd() {
    have etcd && return
    if have apt-get && have dpkg-deb; then unpack_etcd; else install etcd; fi
}

unpack_etcd() {
    local unpacked
    unpacked="$(mktemp -d)"
    say "fetching etcd"
    (
        cd "$unpacked" || exit
        apt-get -qq download etcd-server >&2 ||
            { as_root apt-get -qq update >&2 && apt-get -qq download etcd-server >&2; } || exit
        dpkg-deb -x etcd-server_*.deb . || exit
        mkdir -p "$TOOLS/bin"
        command install -m 755 usr/bin/etcd "$TOOLS/bin/etcd"
    )
    local code="$?"
    rm -rf "$unpacked"
    return "$code"
}

# What replication over RDMA loads at run time, on a host with a device for it. It is no failure if it cannot
# be had: replication goes over TCP then.
want_verbs() {
    [ -n "$(ls /sys/class/infiniband 2>/dev/null)" ] || return 0
    has_verbs && return 0
    install verbs || say "libibverbs or its providers are missing: this host replicates over TCP"
}

# The library, and what names its providers: without one of them it finds no device.
has_verbs() {
    PATH="$PATH:/usr/sbin:/sbin" ldconfig -p 2>/dev/null | grep -q 'libibverbs\.so\.1' &&
        ls /etc/libibverbs.d/*.driver >/dev/null 2>&1
}

# Chromium with its driver; fails where no repository has them.
need_chromium() {
    have chromedriver && { have chromium || have chromium-browser; } && return
    install chromium chromium-driver
}

# cargo-nextest, prebuilt; fails where it cannot be fetched.
need_nextest() {
    have cargo-nextest && return
    local url
    case "$(uname -m)" in
    x86_64) url=https://get.nexte.st/latest/linux ;;
    aarch64) url=https://get.nexte.st/latest/linux-arm ;;
    *) return 1 ;;
    esac
    mkdir -p "$TOOLS/bin"
    say "fetching cargo-nextest"
    curl --proto '=https' -sSfL --max-time 120 "$url" | tar -xz -C "$TOOLS/bin"
}

# The nightly toolchain and cargo-fuzz, which libFuzzer's instrumentation needs.
need_fuzz() {
    need_rust
    have c++ || install c-compiler || not_run "a C++ compiler is missing"
    cargo +nightly --version >/dev/null 2>&1 ||
        rustup toolchain install nightly --profile minimal >&2 ||
        not_run "the nightly toolchain is missing and cannot be fetched"
    have cargo-fuzz || cargo install -q --locked --root "$TOOLS" --version 0.13.2 cargo-fuzz ||
        not_run "cargo-fuzz is missing and cannot be built"
}

# The broker's release binary, built if it is older than its sources.
need_ringlane() {
    need_rust
    (cd "$ROOT" && cargo build --release -p ringlane) || die "the broker does not build"
}
