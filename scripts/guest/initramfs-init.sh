#!/bin/sh
# The first process of the guest: loads what the root disk needs, hands over to the job that run.sh
# put on the second disk, and turns the machine off whatever happens. The last line on the second
# serial port is the job's exit status; without it, run.sh takes the run for broken.
busybox=/bin/busybox

finish() {
    echo "status $1" >/dev/ttyS1
    $busybox sync
    $busybox poweroff -f
    $busybox sleep 60
}

$busybox mount -t devtmpfs devtmpfs /dev
$busybox mount -t proc proc /proc
$busybox mount -t sysfs sysfs /sys
while read -r module; do
    $busybox insmod "/modules/$module" || echo "initramfs: cannot load $module"
done </modules/order
$busybox mount -t ext4 -o ro /dev/vda /root || finish 125
for directory in dev proc sys; do $busybox mount -o move "/$directory" "/root/$directory"; done
for directory in run tmp suite; do $busybox mount -t tmpfs -o size=1g tmpfs "/root/$directory"; done
$busybox chroot /root /bin/busybox tar -x -f /dev/vdb -C /suite || {
    $busybox mount -o move /root/dev /dev
    finish 125
}
$busybox chroot /root /bin/busybox sh /suite/job.sh
status=$?
$busybox mount -o move /root/dev /dev
finish "$status"
