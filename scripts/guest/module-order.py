"""Prints the paths of kernel modules in the order in which insmod takes them.

    module-order.py MODULES_DIRECTORY NAME...

It reads each module's .modinfo strings, so that neither kmod nor a run of depmod is needed. A name
without a file is skipped: it is built into the kernel.
"""

import re
import sys
from pathlib import Path

# crc32c comes in through the crypto interface at run time; no symbol makes ext4 depend on it.
SOFT_DEPENDENCIES = {"ext4": ["crc32c_generic"]}


def index(directory):
    """Module name to file."""
    return {path.stem.replace("-", "_"): path for path in directory.rglob("*.ko")}


def dependencies(path):
    """What the module names in `depends=`."""
    found = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
    names = found.group(1).decode().split(",") if found else []
    return [name.replace("-", "_") for name in names if name]


def order(files, names):
    """The files of `names` and of all that they need, each after what it needs."""
    done = {}

    def visit(name):
        if name in done or name not in files:
            return
        for needed in SOFT_DEPENDENCIES.get(name, []) + dependencies(files[name]):
            visit(needed)
        done[name] = files[name]

    for name in names:
        visit(name)
    return done.values()


if __name__ == "__main__":
    for module in order(index(Path(sys.argv[1])), sys.argv[2:]):
        print(module)
