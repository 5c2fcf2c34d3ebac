"""What the numbers depend on: the machine and the versions."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version, release

PACKAGES = ("pvblob", "azure-storage-blob", "azure-core", "requests", "obstore", "aiohttp")


def machine() -> dict[str, object]:
    """Return processor, cores, memory in bytes, kernel."""
    models = [line for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines() if line.startswith("model name")]
    return {
        "processor": models[0].partition(":")[2].strip() if models else "unknown",
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": release(),
    }


def versions() -> dict[str, str]:
    """Return Python's version and those of the packages that are measured."""
    found = {"python": python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
