#!/usr/bin/env python3
"""The house rules that no compiler checks; CONTRIBUTING.md says why each exists.

Prints every violation and a summary line; exit status 1 if there is any.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINES_MAX = 800

#: Who may import whom (ARCHITECTURE.md). Names without the prefix `ringlane-`; the broker is `ringlane`.
EDGES = {
    "dataplane": set(),
    "mqtt": set(),
    "transport-uring": {"dataplane"},
    "transport-rdma": {"dataplane"},
    "ringlane": {"dataplane", "mqtt", "transport-uring", "transport-rdma"},
    "bench": {"dataplane", "mqtt", "transport-uring"},
    "sim": {"dataplane", "transport-rdma", "ringlane"},
}
#: Development dependencies: the broker's tests use the load tool's library.
TEST_EDGES = {"ringlane": {"bench"}}


def rust_files():
    """Every Rust file that git knows or would take, with its text."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.rs"],
        cwd=ROOT, check=True, capture_output=True, text=True)
    paths = sorted(path for path in set(listing.stdout.splitlines()) if (ROOT / path).exists())
    return [(path, (ROOT / path).read_text(encoding="utf-8")) for path in paths]


def without_comments(text):
    """`text` without line comments and the content of plain strings: enough to find keywords."""
    return re.sub(r'"(?:\\.|[^"\\\n])*"|//[^\n]*', "", text)


def check_module_docs(files):
    """Every source file says first what it is for."""
    for path, text in files:
        lines = [line for line in text.splitlines() if not line.startswith("#!")]
        if not lines or not re.match(r"//!\s+\S+", lines[0]):
            yield f"{path}:1: no module documentation (`//!`)"


def check_length(files):
    """A file has one reason to change, and fits in a head."""
    for path, text in files:
        count = text.count("\n")
        if count > LINES_MAX:
            yield f"{path}: {count} lines, more than {LINES_MAX}"


def check_leftovers(files):
    """Nothing is left for later in the code; issues are the place for that."""
    for path, text in files:
        for number, line in enumerate(text.splitlines(), 1):
            if re.search(r"\b(TODO|FIXME|XXX)\b|\btodo!\(|\bunimplemented!\(|#\[ignore", line):
                yield f"{path}:{number}: left open: {line.strip()}"


def check_unsafe(files):
    """Each file with `unsafe` has a section in docs/safety.md: who owns the bytes, and until when."""
    safety = ROOT / "docs" / "safety.md"
    listed = safety.read_text(encoding="utf-8") if safety.exists() else ""
    for path, text in files:
        if re.search(r"\bunsafe\b(?!_)", without_comments(text)) and path not in listed:
            yield f"{path}: has `unsafe` and no section in docs/safety.md"


def check_broker_tests():
    """Every file beside the broker's test binary is a module of it, or a binary that Cargo.toml names."""
    tests = ROOT / "broker" / "tests"
    listed = (tests / "main.rs").read_text(encoding="utf-8")
    binaries = (ROOT / "broker" / "Cargo.toml").read_text(encoding="utf-8")
    for path in sorted(tests.glob("*.rs")):
        name = path.stem
        if name != "main" and f"\nmod {name};" not in listed and f'[[test]]\nname = "{name}"' not in binaries:
            yield f"broker/tests/{path.name}: no module of broker/tests/main.rs: its tests do not run"


def short_name(package):
    """A package's name as EDGES has it."""
    return package.removeprefix("ringlane-")


def check_edges():
    """Imports between the crates run in one direction."""
    metadata = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--no-deps"],
        cwd=ROOT, check=True, capture_output=True, text=True)
    packages = json.loads(metadata.stdout)["packages"]
    own = {package["name"] for package in packages}
    for package in packages:
        name = short_name(package["name"])
        if name not in EDGES:
            yield f"{package['name']}: not in the table of scripts/tidy.py and ARCHITECTURE.md"
            continue
        for dependency in package["dependencies"]:
            allowed = EDGES[name] | (TEST_EDGES.get(name, set()) if dependency["kind"] == "dev" else set())
            if dependency["name"] in own and short_name(dependency["name"]) not in allowed:
                yield f"{package['name']} must not import {dependency['name']}"


def main():
    """Runs every rule over the tree."""
    files = rust_files()
    rules = {
        "module documentation": check_module_docs(files),
        "file length": check_length(files),
        "nothing left open": check_leftovers(files),
        "unsafe is explained": check_unsafe(files),
        "import edges": check_edges(),
        "tests of the broker run": check_broker_tests(),
    }
    failed = 0
    for name, violations in rules.items():
        found = list(violations)
        failed += bool(found)
        print("\n".join([f"tidy: {name}: {'FAILED' if found else 'ok'}", *found]))
    print(f"tidy: {len(files)} files, {len(rules) - failed} rules passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
