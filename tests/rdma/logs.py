"""What the nodes' logs hold in the end, read from their disks on the host."""

import hashlib
import json
import subprocess

from machines import NODES, check, say


def take_out(disk, directory):
    """The data directory on a guest's disk, without mounting it."""
    directory.mkdir(parents=True)
    # The journal of a machine that was lost is gone over first.
    subprocess.run(["e2fsck", "-p", disk], check=False, stdout=subprocess.DEVNULL)
    subprocess.run(["debugfs", "-R", f"rdump /ringlane {directory}", disk], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return directory / "ringlane"


def records(program, data):
    """All records: by partition and offset, the epoch, a digest and the name of the message."""
    subprocess.run([program, "log", "verify", "--data-dir", data], check=True, stdout=subprocess.DEVNULL)
    export = subprocess.Popen([program, "log", "export", "--state", "--data-dir", data], stdout=subprocess.PIPE)
    found = {}
    for line in export.stdout:
        record = json.loads(line)
        digest = hashlib.blake2b(line, digest_size=8).digest()
        found[record["partition"], record["offset"]] = (record["epoch"], digest, name_of(record))
    check(export.wait() == 0, "the export of a log failed")
    return found


def name_of(record):
    """Publisher and number, as its payload begins; nothing for what is no message."""
    return record.get("payload", "").rsplit("/", 1)[0]


def check_logs(program, machines, directory, publishers):
    """Every node has every message that was acknowledged, all have the same records, and no epoch is followed by
    an older one."""
    logs = {}
    for number in NODES:
        data = take_out(machines.guests[number].disk, directory / f"data-{number}")
        logs[number] = records(program, data)
    for number, log in logs.items():
        held = {name for _, _, name in log.values()}
        lost = [f"{publisher.client}/{message:08d}" for publisher in publishers
                for message in publisher.acknowledged if f"{publisher.client}/{message:08d}" not in held]
        check(not lost, f"node {number} lacks {len(lost)} acknowledged messages: {lost[:5]}")
        check_epochs(number, log)
    for number in NODES[1:]:
        different = [place for place, record in logs[number].items() if logs[NODES[0]].get(place) != record]
        check(not different and len(logs[number]) == len(logs[NODES[0]]),
              f"nodes {NODES[0]} and {number} differ at {len(different)} records, such as {different[:3]}")
    count = sum(len(publisher.acknowledged) for publisher in publishers)
    epochs = sorted({epoch for epoch, _, _ in logs[NODES[0]].values()})
    say(f"all {count} acknowledged messages are in the logs of all nodes, which are the same: "
        f"{len(logs[NODES[0]])} records of {len(epochs)} epochs")
    return epochs


def check_epochs(number, log):
    """In no partition a record of an epoch stands behind one of a newer epoch."""
    newest = {}
    for partition, offset in sorted(log):
        epoch = log[partition, offset][0]
        check(newest.get(partition, 0) <= epoch,
              f"node {number}, partition {partition}: offset {offset} is of epoch {epoch}, behind {newest.get(partition)}")
        newest[partition] = epoch
