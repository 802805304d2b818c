#!/usr/bin/env bash
# A small ext4 file system on a file, for faults that a directory cannot have. It needs root and loop devices.
#
#   disk.sh make DIR MIB      makes DIR/disk.img (on /dev/shm where there is room) and mounts it on DIR/mount
#   disk.sh cut DIR           power loss: the file system stops, nothing is flushed, every later write fails
#   disk.sh sync DIR          makes durable what was written so far
#   disk.sh fill DIR          takes all room that is left; `free` gives it back
#   disk.sh remount DIR       the power is back: unmount, mount, the journal is replayed
#   disk.sh small DIR MIB     as make, and the size is the fault: a disk that is full after MIB
#   disk.sh thin DIR MIB      a disk of 256 MiB of which only MIB can be written: real write-back errors (EIO)
#   disk.sh starve DIR        on a thin disk: what is not written yet cannot be any more, zeros written ahead of use included
#   disk.sh feed DIR          gives that back; a file system that has given up is mounted again
#   disk.sh remove DIR        unmounts and removes everything
#
# Kill whoever uses DIR/mount between `cut` and `remount`.
set -euo pipefail

die() {
    echo "disk.sh: $*" >&2
    exit 1
}

[ "$#" -ge 2 ] || die "usage: disk.sh make|small|thin DIR MIB; disk.sh sync|cut|fill|free|starve|feed|remount|remove DIR"
step="$1" dir="$(cd "$2" && pwd)" mib="${3:-256}"
image="$dir/disk.img"

need() {
    [ "$(id -u)" -eq 0 ] || die "a file system on a file needs root"
    [ -e /dev/loop-control ] || die "there are no loop devices here (/dev/loop-control)"
    command -v mkfs.ext4 >/dev/null || PATH="$PATH:/sbin:/usr/sbin"
    command -v mkfs.ext4 >/dev/null || die "mkfs.ext4 is not installed (package e2fsprogs)"
    ! mountpoint -q "$dir/mount" || die "$dir/mount is in use"
    mkdir -p "$dir/mount"
}

# The image lies in memory: the disk below it has no part in the experiment, and a cycle takes milliseconds.
make_image() {
    local place
    place="$(mktemp -d /dev/shm/ringlane-disk-XXXXXX 2>/dev/null)" || place="$dir"
    [ "$place" = "$dir" ] || ln -sfn "$place/disk.img" "$image"
    truncate -s "${1}M" "$place/disk.img"
    mkfs.ext4 -qF -E lazy_itable_init=0,lazy_journal_init=0 "$place/disk.img" >/dev/null
}

mount_image() {
    mount -o "loop,$1" "$(readlink -f "$image")" "$dir/mount" ||
        die "the loop mount is refused (containers need CAP_SYS_ADMIN and access to /dev/loop*)"
}

# umount waits for nobody: a process that was killed a moment ago may still hold a file.
unmount() {
    local try
    for try in $(seq 100); do
        umount "$dir/mount" 2>/dev/null && return
        sleep 0.02
    done
    umount "$dir/mount" || die "somebody still uses $dir/mount (try $try)"
}

# EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH (Source: fs/ext4/ext4.h).
shut_down() {
    if command -v perl >/dev/null; then
        perl -e 'use Fcntl; sysopen(my $d, $ARGV[0], O_RDONLY) or die "$!\n";
            my $how = pack("L", 2);
            ioctl($d, 0x8004587d, $how) or die "$!\n"' "$dir/mount"
    else
        python3 -IS -c 'import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack("I", 2))' "$dir/mount"
    fi || die "ext4 does not shut down (EXT4_IOC_SHUTDOWN)"
}

case "$step" in
make | small)
    need
    make_image "$mib"
    mount_image noatime
    ;;
thin)
    need
    mkdir -p "$dir/thin"
    mount -t tmpfs -o "size=${mib}m" tmpfs "$dir/thin"
    truncate -s 256M "$dir/thin/disk.img"
    mkfs.ext4 -qF -E lazy_itable_init=0,lazy_journal_init=0,nodiscard -b 4096 -J size=4 "$dir/thin/disk.img" >/dev/null
    ln -sfn "$dir/thin/disk.img" "$image"
    # The journal is written to the same device: on a slow machine it would be due, and fail, in the middle of a test.
    mount_image errors=continue,commit=600
    ;;
cut) shut_down ;;
fill)
    # The first goes as far as it can, the second takes the rest in single blocks.
    dd if=/dev/zero of="$dir/mount/filler" bs=1M 2>/dev/null || true
    dd if=/dev/zero of="$dir/mount/filler" bs=4K oflag=append conv=notrunc 2>/dev/null || true
    ;;
starve)
    # Blocks of zeros become holes; nobody may write between the look and the hole.
    fsfreeze -f "$dir/mount"
    fallocate -d "$dir/thin/disk.img" || true
    dd if=/dev/zero of="$dir/thin/ballast" bs=64K 2>/dev/null || true
    # The loop driver takes a write for whole of which a part found room: a page is all or nothing.
    loop="$(findmnt -no SOURCE "$dir/mount")"
    echo 4 >"/sys/block/${loop##*/}/queue/max_sectors_kb"
    fsfreeze -u "$dir/mount"
    ;;
feed)
    rm -f "$dir/thin/ballast"
    if ! { touch "$dir/mount/probe" && rm "$dir/mount/probe" && sync -f "$dir/mount"; } 2>/dev/null; then
        unmount
        mount_image noatime
    fi
    ;;
sync) sync -f "$dir/mount" ;;
free) rm -f "$dir/mount/filler" ;;
remount)
    unmount
    mount_image noatime
    ;;
remove)
    if mountpoint -q "$dir/mount"; then unmount; fi
    place="$(dirname "$(readlink -f "$image")")"
    rm -f "$(readlink -f "$image")" "$image"
    case "$place" in /dev/shm/ringlane-disk-*) rmdir "$place" ;; esac
    if mountpoint -q "$dir/thin" 2>/dev/null; then umount "$dir/thin" && rmdir "$dir/thin"; fi
    ;;
*) die "no step $step" ;;
esac
