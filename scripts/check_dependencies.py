#!/usr/bin/env python3
"""Fail where a crate knows another that it must not know (ARCHITECTURE.md, "Who may know whom")."""

import json
import subprocess
import sys

# What each crate may depend on directly, besides crates of other people.
ALLOWED = {
    "types": set(),
    "dataset": {"types"},
    "store": {"types"},
    "blobs": {"types"},
    "torch-ext": set(),
    "model": {"torch-ext", "types"},
    "trainer": {"model", "dataset", "torch-ext", "types"},
    "engine": {"model", "dataset", "torch-ext", "types"},
    "worker": {"store", "blobs", "dataset", "types"},
    "gateway": {"store", "blobs", "dataset", "types"},
    "api": {"store", "blobs", "dataset", "types"},
    "cli": {"api", "gateway", "worker", "store", "blobs", "dataset", "types"},
    "testing": {"store", "blobs", "types"},
    "tests": {"store", "blobs", "types"},
}
# Only tests may use these.
TEST_ONLY = {"testing"}
WITHOUT_TORCH = {"types", "dataset", "store", "blobs", "worker", "gateway", "api", "cli"}
PREFIX = "tunesmith-"


def metadata() -> dict:
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def reachable(start: str, graph: dict[str, set[str]]) -> set[str]:
    seen, waiting = set(), [start]
    while waiting:
        package = waiting.pop()
        if package not in seen:
            seen.add(package)
            waiting.extend(graph[package])
    return seen


def main() -> None:
    data = metadata()
    members = set(data["workspace_members"])
    names = {package["id"]: package["name"] for package in data["packages"]}
    complaints = []
    for package in data["packages"]:
        if package["id"] not in members:
            continue
        crate = package["name"].removeprefix(PREFIX)
        if crate not in ALLOWED:
            complaints.append(f"{crate}: not listed in scripts/check_dependencies.py")
            continue
        for dependency in package["dependencies"]:
            other = dependency["name"].removeprefix(PREFIX)
            if not dependency["name"].startswith(PREFIX) or other not in ALLOWED:
                continue
            allowed = ALLOWED[crate] | (TEST_ONLY if dependency["kind"] == "dev" else set())
            if other not in allowed:
                complaints.append(f"{crate} must not depend on {other}")
    graph = {
        node["id"]: {d["pkg"] for d in node["deps"] if any(kind["kind"] != "dev" for kind in d["dep_kinds"])}
        for node in data["resolve"]["nodes"]
    }
    for identifier in members:
        crate = names[identifier].removeprefix(PREFIX)
        if crate in WITHOUT_TORCH and any(names[p] == "torch-sys" for p in reachable(identifier, graph)):
            complaints.append(f"{crate} must not link LibTorch")
    for complaint in complaints:
        print(f"dependency direction: {complaint}", file=sys.stderr)
    sys.exit(1 if complaints else 0)


if __name__ == "__main__":
    main()
