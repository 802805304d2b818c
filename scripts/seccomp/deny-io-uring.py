#!/usr/bin/env python3
"""Runs a command with io_uring denied by seccomp, as container runtimes deny it.

    scripts/seccomp/deny-io-uring.py [--errno EPERM|ENOSYS] [--check] COMMAND [ARGUMENT...]

io_uring_setup, io_uring_enter and io_uring_register fail with EPERM (the answer of Docker's and
containerd's default profile since 2023; older ones answer ENOSYS through an unknown-call default).
The filter is inherited by every child and cannot be lifted. It needs no privilege: it sets
no_new_privs, as seccomp(2) asks of unprivileged callers. Only Python's standard library is used.

--check makes sure that the filter holds before the command starts: io_uring_setup has to fail with
the chosen errno. Exit status: the command's own; 126 if the filter cannot be installed or does not
hold, 127 if there is no such command, 2 for wrong usage.
"""

import argparse
import ctypes
import errno
import os
import platform
import struct
import sys

# <linux/prctl.h>, <linux/seccomp.h>
PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_ALLOW = 0x7FFF0000
SECCOMP_RET_ERRNO = 0x00050000
SECCOMP_RET_KILL_PROCESS = 0x80000000

# <linux/bpf_common.h>: classes, sizes and modes of the instructions that the filter uses.
LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K

# Offsets in struct seccomp_data.
OFFSET_NUMBER = 0
OFFSET_ARCHITECTURE = 4

# <linux/audit.h>. The io_uring calls came after the tables were unified: one number everywhere.
AUDIT_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "riscv64": 0xC00000F3}
IO_URING_SETUP, IO_URING_ENTER, IO_URING_REGISTER = 425, 426, 427
# The x32 calls of an x86-64 kernel carry this bit and would slip past a plain comparison.
X32_BIT = 0x40000000


def instruction(code, jump_true, jump_false, operand):
    """One struct sock_filter."""
    return struct.pack("=HBBI", code, jump_true, jump_false, operand)


def build_filter(architecture, error):
    """The program: the three calls fail with `error`, a foreign architecture is killed."""
    numbers = [IO_URING_SETUP, IO_URING_ENTER, IO_URING_REGISTER]
    if architecture == AUDIT_ARCHITECTURES["x86_64"]:
        numbers += [number | X32_BIT for number in numbers]
    program = [
        instruction(LOAD_WORD, 0, 0, OFFSET_ARCHITECTURE),
        instruction(JUMP_EQUAL, 1, 0, architecture),
        instruction(RETURN, 0, 0, SECCOMP_RET_KILL_PROCESS),
        instruction(LOAD_WORD, 0, 0, OFFSET_NUMBER),
    ]
    for index, number in enumerate(numbers):
        # A hit jumps over the remaining comparisons and the ALLOW behind them.
        program.append(instruction(JUMP_EQUAL, len(numbers) - index, 0, number))
    program.append(instruction(RETURN, 0, 0, SECCOMP_RET_ALLOW))
    program.append(instruction(RETURN, 0, 0, SECCOMP_RET_ERRNO | error))
    return program


class SockFprog(ctypes.Structure):
    """struct sock_fprog: length and address of a BPF program."""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def load_libc():
    """The C library of this process, with errno kept by ctypes."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    libc.syscall.restype = ctypes.c_long
    return libc


def install(libc, error):
    """Installs the filter in this process. Raises OSError."""
    machine = platform.machine()
    if machine not in AUDIT_ARCHITECTURES:
        raise OSError(errno.ENOTSUP, f"no seccomp architecture number known for {machine}")
    program = build_filter(AUDIT_ARCHITECTURES[machine], error)
    code = ctypes.create_string_buffer(b"".join(program))
    fprog = SockFprog(len(program), ctypes.addressof(code))
    steps = (
        ("PR_SET_NO_NEW_PRIVS", (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)),
        ("PR_SET_SECCOMP", (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(fprog), 0, 0)),
    )
    for name, arguments in steps:
        if libc.prctl(*arguments) != 0:
            code_number = ctypes.get_errno()
            raise OSError(code_number, f"prctl({name}): {os.strerror(code_number)}")


def holds(libc, error):
    """Whether io_uring_setup now fails with `error`. Entries 0 would be EINVAL without a filter."""
    result = libc.syscall(ctypes.c_long(IO_URING_SETUP), ctypes.c_long(0), None)
    return result == -1 and ctypes.get_errno() == error


def parse(arguments):
    """The command line."""
    parser = argparse.ArgumentParser(description="Run a command with io_uring denied by seccomp.")
    parser.add_argument("--errno", choices=("EPERM", "ENOSYS"), default="EPERM")
    parser.add_argument("--check", action="store_true", help="verify the filter before starting")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND [ARGUMENT...]")
    options = parser.parse_args(arguments)
    if options.command and options.command[0] == "--":
        options.command.pop(0)
    if not options.command:
        parser.error("a command is needed")
    return options


def main():
    """Installs the filter and becomes the command."""
    options = parse(sys.argv[1:])
    error = getattr(errno, options.errno)
    libc = load_libc()
    try:
        install(libc, error)
    except OSError as failure:
        print(f"deny-io-uring: {failure}", file=sys.stderr)
        return 126
    if options.check and not holds(libc, error):
        print("deny-io-uring: io_uring_setup is not denied by the filter", file=sys.stderr)
        return 126
    try:
        os.execvp(options.command[0], options.command)
    except OSError as failure:
        print(f"deny-io-uring: {options.command[0]}: {failure.strerror}", file=sys.stderr)
        return 127


if __name__ == "__main__":
    sys.exit(main())
