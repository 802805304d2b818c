#!/usr/bin/env bash
# Builds a guest: a stock Debian 12 kernel (6.1), a small initramfs and a root file system. Prints the
# directory that holds vmlinuz, initramfs.gz, root.img and manifest.txt. Everything comes from Debian's
# packages, PyPI and npm; nothing of it is installed on the host, and no privilege is needed beyond
# missing host tools.
#
#   scripts/guest/build.sh [clients]   Python, Node, mosquitto-clients and the packages of the client suite
#   scripts/guest/build.sh rdma        soft-RoCE: the modules, the verbs libraries, ip and rdma
#
# The result is kept under target/guest/image-<hash of the inputs>; a second call only prints it.
# The broker and the tests are not in it: run.sh hands them over on a second disk.
set -euo pipefail
# shellcheck source=scripts/guest/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

KIND="${1:-clients}"
PACKAGES="$GUEST_SCRIPTS/packages.txt"
# What the root disk needs; Debian's kernel has these as modules.
MODULES=(virtio_pci virtio_blk ext4)
# What the root disk carries, for a job to load. rxe finds CRC-32 through the crypto interface: without
# crc32_generic no rxe device can be made, and no symbol says so.
ROOT_MODULES=()
case "$KIND" in
clients) ;;
rdma)
    PACKAGES="$GUEST_SCRIPTS/packages-rdma.txt"
    ROOT_MODULES=(crc32_generic rdma_rxe ib_uverbs virtio_net)
    ;;
*) die "no guest is called $KIND" ;;
esac
PYTHON_REQUIREMENTS="$CLIENTS/requirements.txt"
NODE_PROJECT="$CLIENTS/mqttjs"

inputs_hash() {
    local file
    for file in "$GUEST_SCRIPTS"/{build.sh,lib.sh,initramfs-init.sh,module-order.py} "$PACKAGES" \
        "$PYTHON_REQUIREMENTS" "$NODE_PROJECT"/package{,-lock}.json; do
        if [ -f "$file" ]; then sha256sum <"$file"; else echo "absent"; fi
    done | sha256sum | cut -c1-16
}

# Downloads the closure of PACKAGES, and the kernel's package alone, into $WORK/debs.
# apt checks size and hash of each against the signed lists.
fetch_packages() {
    local apt="$WORK/apt" kernel names
    debian_tree "$apt" amd64
    kernel="$(debian_apt "$apt" amd64 apt-cache depends linux-image-amd64 |
        awk '$1 == "Depends:" && $2 ~ /^linux-image-6\.1/ { print $2; exit }')"
    [ -n "$kernel" ] || die "linux-image-amd64 names no 6.1 kernel"
    mapfile -t names < <(grep -v '^#' "$PACKAGES")
    debian_apt "$apt" amd64 apt-get install -y --download-only "${names[@]}" >/dev/null
    mkdir -p "$WORK/debs" "$WORK/kernel-deb"
    mv "$apt"/cache/archives/*.deb "$WORK/debs/"
    (cd "$WORK/kernel-deb" && debian_apt "$apt" amd64 apt-get download "$kernel" >/dev/null)
}

# unpack DEB DIRECTORY TAR_OPTION...: a package's files, without running its scripts.
unpack() {
    local deb="$1" directory="$2"
    shift 2
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$directory" --no-same-owner --keep-directory-symlink "$@"
}

unpack_root() {
    local deb link
    mkdir -p "$ROOT"/usr/{bin,sbin,lib,lib64} "$ROOT"/{dev,proc,sys,run,tmp,suite}
    for link in bin sbin lib lib64; do ln -s "usr/$link" "$ROOT/$link"; done
    for deb in "$WORK"/debs/*.deb; do
        unpack "$deb" "$ROOT" --exclude='./usr/share/doc' --exclude='./usr/share/man' \
            --exclude='./usr/share/locale' --exclude='./usr/share/info'
    done
    # The work of maintainer scripts, as far as the guest needs it.
    ldconfig -r "$ROOT"
    printf 'root:x:0:0:root:/tmp:/bin/sh\n' >"$ROOT/etc/passwd"
    printf 'root:x:0:\n' >"$ROOT/etc/group"
    printf '127.0.0.1 localhost guest\n' >"$ROOT/etc/hosts"
    [ ! -e "$ROOT/usr/bin/dash" ] || ln -sf dash "$ROOT/usr/bin/sh"
    [ -e "$ROOT/usr/bin/sh" ] || ln -s busybox "$ROOT/usr/bin/sh"
}

# Runs the guest's own Python on the host, without a chroot.
guest_python() {
    PYTHONHOME="$ROOT/usr" "$ROOT/lib64/ld-linux-x86-64.so.2" \
        --library-path "$ROOT/usr/lib/x86_64-linux-gnu" "$ROOT/usr/bin/python3.11" "$@"
}

# A Python on the host that has pip.
host_pip() {
    local python
    for python in python3 "$REPOSITORY/target/clients-venv/bin/python"; do
        "$python" -m pip --version >/dev/null 2>&1 && echo "$python" && return
    done
    need_tool pip3 python3-pip
    echo python3
}

install_python_packages() {
    local directory="$ROOT/opt/python"
    mkdir -p "$directory"
    [ -f "$PYTHON_REQUIREMENTS" ] || die "$PYTHON_REQUIREMENTS is missing"
    PIP_ROOT_USER_ACTION=ignore "$(host_pip)" -m pip install --quiet --target "$directory" --only-binary=:all: \
        --implementation cp --python-version 3.11 --platform manylinux2014_x86_64 \
        --requirement "$PYTHON_REQUIREMENTS"
    # Compiled now, because emulated it would cost a minute per boot.
    guest_python -m compileall -q -j 2 --invalidation-mode unchecked-hash -s "$ROOT" -p / \
        "$directory" "$ROOT/usr/lib/python3.11" "$ROOT/usr/lib/python3" >/dev/null || true
}

install_node_packages() {
    local directory="$ROOT/opt/mqttjs"
    [ -f "$NODE_PROJECT/package-lock.json" ] || { say "no $NODE_PROJECT: no MQTT.js in the guest"; return; }
    mkdir -p "$directory"
    cp "$NODE_PROJECT"/package{,-lock}.json "$directory/"
    need_tool npm npm
    (cd "$directory" && npm ci --silent --no-audit --no-fund --ignore-scripts >/dev/null)
}

# put_modules TREE DIRECTORY NAME...: the modules and, in `order`, the order in which insmod takes them.
put_modules() {
    local tree="$1" directory="$2" module
    shift 2
    mkdir -p "$directory"
    : >"$directory/order"
    while read -r module; do
        cp "$module" "$directory/"
        basename "$module" >>"$directory/order"
    done < <(python3 "$GUEST_SCRIPTS/module-order.py" "$tree" "$@")
}

# The kernel, and an initramfs that only finds the root disk.
build_boot() {
    local tree="$WORK/kernel" initramfs="$WORK/initramfs" version
    mkdir -p "$tree" "$initramfs"/{bin,modules,dev,proc,sys,root}
    unpack "$WORK"/kernel-deb/*.deb "$tree"
    version="$(basename "$tree"/boot/vmlinuz-*)"
    version="${version#vmlinuz-}"
    cp "$tree/boot/vmlinuz-$version" "$OUTPUT/vmlinuz"
    cp "$ROOT/usr/bin/busybox" "$initramfs/bin/busybox"
    ln -s busybox "$initramfs/bin/sh"
    install -m 755 "$GUEST_SCRIPTS/initramfs-init.sh" "$initramfs/init"
    put_modules "$tree/lib/modules/$version" "$initramfs/modules" "${MODULES[@]}"
    put_modules "$tree/lib/modules/$version" "$ROOT/opt/modules" "${MODULES[@]}" "${ROOT_MODULES[@]}"
    (cd "$initramfs" && find . | "$ROOT/usr/bin/busybox" cpio -o -H newc 2>/dev/null) |
        gzip -1 >"$OUTPUT/initramfs.gz"
    echo "kernel $version" >"$OUTPUT/manifest.txt"
}

# One ext4 image, made from a directory without mounting anything. run.sh never writes to it.
build_disk() {
    local bytes
    bytes="$(du -s --block-size=1M --apparent-size "$ROOT" | cut -f1)"
    mke2fs -q -t ext4 -d "$ROOT" -E root_owner=0:0 -O ^has_journal -m 0 \
        "$OUTPUT/root.img" "$((bytes + bytes / 3 + 64))M" >&2
    (cd "$WORK/debs" && ls ./*.deb | sed 's,^\./,,') >>"$OUTPUT/manifest.txt"
}

build() {
    WORK="$(mktemp -d "$GUEST_CACHE/work.XXXXXX")"
    # shellcheck disable=SC2064 # the directory of now
    trap "rm -rf '$WORK'" EXIT
    ROOT="$WORK/root"
    OUTPUT="$WORK/output"
    mkdir -p "$OUTPUT"
    say "fetching Debian 12 packages"
    fetch_packages
    say "unpacking them"
    unpack_root
    if [ "$KIND" = clients ]; then
        install_python_packages
        install_node_packages
    fi
    say "making the initramfs and the root disk"
    build_boot
    build_disk
    rm -rf "$IMAGE"
    mv "$OUTPUT" "$IMAGE"
}

IMAGE="$GUEST_CACHE/image-$(inputs_hash)"
if [ ! -f "$IMAGE/root.img" ]; then
    [ "$(uname -m)" = x86_64 ] || not_run "the guest's image is built on x86-64 hosts only"
    command -v apt-get >/dev/null || not_run "the guest is made of Debian packages and this host has no apt-get"
    mkdir -p "$GUEST_CACHE"
    need_tool mke2fs e2fsprogs
    need_tool python3 python3
    started="$(date +%s)"
    build
    say "built $IMAGE ($(head -1 "$IMAGE/manifest.txt"), $(du -h "$IMAGE/root.img" | cut -f1)) in $(($(date +%s) - started)) s"
fi
echo "$IMAGE"
