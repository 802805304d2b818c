#!/usr/bin/env bash
# Runs one stage of the tests: scripts/stages.sh STAGE. scripts/test.sh calls it with a time limit.
# Exit status: 0 passed, 77 cannot run here (the reason is printed), anything else failed.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$ROOT"

stage_fmt() {
    need_rust
    cargo fmt --all --check
    (cd tests/rumqttc && cargo fmt --check)
}

stage_tidy() {
    need_rust
    need_python
    python3 scripts/tidy.py
}

stage_clippy() {
    need_rust
    cargo clippy --workspace --all-targets --features ringlane/parquet,ringlane-sim/planted,ringlane-sim/brokers --locked -- -D warnings
}

stage_docs() {
    need_rust
    RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" \
        cargo doc --workspace --no-deps --document-private-items --locked
}

stage_build() {
    need_ringlane
    "$TARGET/release/ringlane" version
    "$TARGET/release/ringlane" check-config >/dev/null
}

stage_rust() {
    need_rust
    need_etcd || not_run "etcd is missing and cannot be fetched"
    if need_nextest; then
        # Many tests wait for timers and disks: one more than there are CPUs.
        cargo nextest run --workspace --features ringlane/failpoints,ringlane/parquet --locked --no-fail-fast \
            --test-threads "$(($(nproc) + 1))"
    else
        say "cargo-nextest cannot be had: cargo test instead"
        cargo test --workspace --features ringlane/failpoints,ringlane/parquet --locked --no-fail-fast --lib --bins --tests
    fi
}

# Clusters from seeds, of replicas and of whole brokers, with all checks and a panic that ends only its seed. What the
# stage `rust` has built of other people's crates serves here, too.
stage_sim() {
    need_rust
    # With the features only one build serves all; nothing is planted unless a test does it.
    local build=(--config sim/fast.toml -p ringlane-sim --features planted,brokers --locked)
    cargo build "${build[@]}"
    "$TARGET/debug/ringlane-sim" --seeds "${RINGLANE_SIM_SEEDS:-0..1000}" \
        --broker-seeds "${RINGLANE_SIM_BROKER_SEEDS:-0..24}" --complete
    "$TARGET/debug/ringlane-sim" --seeds "${RINGLANE_SIM_LIVENESS_SEEDS:-1000000..1000050}" --liveness
    cargo test "${build[@]}" --test brokers --test planted --test planted_brokers
}

stage_doctests() {
    need_rust
    cargo test --workspace --locked --doc
}

# In a target directory of its own: --cfg loom changes the fingerprint of every dependency.
stage_loom() {
    need_rust
    CARGO_TARGET_DIR="$TARGET/loom" RUSTFLAGS="--cfg loom" \
        cargo test -p ringlane-dataplane --locked --release --test loom_mailbox
}

# pytest_clients TRANSPORT CORES [ARGUMENT...]
pytest_clients() {
    local transport="$1" cores="$2"
    shift 2
    (cd "$CLIENTS" && RINGLANE_TEST_BROKER="$TARGET/release/ringlane" \
        "$VENV/bin/python" -m pytest -q -n 4 -p no:cacheprovider --color=no \
        --transport "$transport" --cores "$cores" "$@")
}

# mqttjs_clients TRANSPORT CORES
mqttjs_clients() {
    (cd "$CLIENTS/mqttjs" && RINGLANE_TEST_BROKER="$TARGET/release/ringlane" \
        RINGLANE_TEST_TRANSPORT="$1" RINGLANE_TEST_CORES="$2" node --test --test-reporter=spec)
}

# A second core if this machine has one.
both_cores() { if [ "$(nproc)" -ge 2 ]; then echo 0,1; else echo 0; fi; }

# All clients on one transport, on one and on two cores. What cannot be had is said, not hidden: the
# rest runs, and the stage ends as NOT RUN.
clients() {
    local transport="$1" cores complete=yes
    need_ringlane
    need_venv
    need_mosquitto_clients || complete=no
    for cores in 0 "$(both_cores)"; do
        say "$transport, cores $cores"
        pytest_clients "$transport" "$cores"
        (need_mqttjs && mqttjs_clients "$transport" "$cores")
    done
    [ "$complete" = yes ] || not_run "mosquitto-clients are missing; paho and MQTT.js passed"
}

stage_clients_uring() { clients uring; }

stage_clients_epoll() { clients epoll; }

# Kills and power cuts; without root or loop devices only the kills.
stage_ledger() {
    need_ringlane
    cargo build --release -p ringlane-bench
    scripts/faults/ledger.sh
}

stage_rumqttc() {
    need_ringlane
    need_python
    local transport
    for transport in uring epoll; do
        say "rumqttc on $transport"
        RINGLANE_TEST_BROKER="$TARGET/release/ringlane" RINGLANE_TEST_TRANSPORT="$transport" \
            RINGLANE_TEST_CORES="$(both_cores)" CARGO_TARGET_DIR="$TARGET/rumqttc" \
            cargo test --locked --manifest-path tests/rumqttc/Cargo.toml
    done
}

# A short comparison with Mosquitto as a newcomer would run it; the page and its pictures stay in
# target/report.
stage_report() {
    need_venv
    have mosquitto || [ -x /usr/sbin/mosquitto ] || install mosquitto || not_run "Mosquitto cannot be installed"
    scripts/peers.sh mosquitto
    need_chromium || not_run "Chromium and chromedriver cannot be installed"
    (cd tests/report && RINGLANE_BENCH="$TARGET/release/ringlane-bench" RINGLANE_REPORT_DIR="$TARGET/report" \
        "$VENV/bin/python" -m pytest -q -p no:cacheprovider --color=no --timeout 300)
}

# The broker must choose epoll by itself, refuse io_uring with a reason, and serve real clients.
stage_seccomp() {
    need_ringlane
    need_venv
    local deny=(python3 scripts/seccomp/deny-io-uring.py --check) said
    if said="$("${deny[@]}" timeout 20 "$TARGET/release/ringlane" serve --transport uring \
        --cores 0 --data-dir "$TARGET/seccomp-data" 2>&1)"; then
        die "--transport uring started without io_uring: $said"
    fi
    printf '%s\n' "$said"
    [[ "$said" == *io_uring* ]] || die "the refusal does not name io_uring"
    (cd "$CLIENTS" && RINGLANE_TEST_BROKER="$TARGET/release/ringlane" \
        "$VENV/bin/python" "$ROOT/scripts/seccomp/deny-io-uring.py" --check \
        "$VENV/bin/python" -m pytest -q -n 4 -p no:cacheprovider --color=no -m guest --transport auto --cores 0)
}

stage_fuzz_smoke() { scripts/fuzz.sh --smoke; }

# Memcheck and Miri take too long for every run: scripts/sanitize.sh valgrind miri.
stage_sanitize() { need_rust && scripts/sanitize.sh asan; }

stage_aarch64() { need_rust && scripts/aarch64.sh; }

stage_guest() {
    need_ringlane
    need_venv
    RINGLANE_GUEST_BINARY="$TARGET/release/ringlane" scripts/guest/run.sh
}

stage_rdma() {
    need_ringlane
    need_python
    need_etcd || not_run "etcd is missing and cannot be fetched"
    scripts/verbs.sh
    RINGLANE_GUEST_BINARY="$TARGET/release/ringlane" scripts/guest/rdma.sh
}

function="stage_${1//-/_}"
declare -F "$function" >/dev/null || die "no stage $1 (see scripts/stages.tsv)"
"$function"
