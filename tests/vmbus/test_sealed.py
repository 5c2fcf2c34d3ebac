"""Lent memory must be sealed: design rule 1, W-11; spec/vmbus.md §5 (memfd)."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pvblob.errors import RemoteProtocolError
from pvblob.vmbus.sealed import SEALS_REQUIRED, check_sealed

SIZE = 8192


@pytest.fixture
def memory() -> Iterator[int]:
    fd = os.memfd_create("lent", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.ftruncate(fd, SIZE)
    yield fd
    os.close(fd)


def test_memory_with_all_seals_is_accepted(memory: int) -> None:
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, SEALS_REQUIRED)
    check_sealed(memory, SIZE)


@pytest.mark.parametrize("seal", ["F_SEAL_SHRINK", "F_SEAL_GROW", "F_SEAL_SEAL"])
def test_each_missing_seal_is_named(memory: int, seal: str) -> None:
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, SEALS_REQUIRED & ~getattr(fcntl, seal))
    with pytest.raises(RemoteProtocolError, match=f"lacks the seals {seal}$"):
        check_sealed(memory, SIZE)


@pytest.mark.parametrize("length", [0, SIZE - 4096, SIZE + 4096])
def test_memory_of_another_size_than_announced_is_refused(memory: int, length: int) -> None:
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, SEALS_REQUIRED)
    with pytest.raises(RemoteProtocolError, match=f"8192 bytes; the message says {length}"):
        check_sealed(memory, length)


@pytest.mark.parametrize("seal", [fcntl.F_SEAL_WRITE, 0x10])
def test_memory_the_host_could_not_write_is_refused(memory: int, seal: int) -> None:
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, SEALS_REQUIRED | seal)
    with pytest.raises(RemoteProtocolError, match="sealed against writing"):
        check_sealed(memory, SIZE)


def test_memory_opened_for_reading_only_is_refused(memory: int) -> None:
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, SEALS_REQUIRED)
    reading = os.open(f"/proc/self/fd/{memory}", os.O_RDONLY)
    try:
        with pytest.raises(RemoteProtocolError, match="not open for reading and writing"):
            check_sealed(reading, SIZE)
    finally:
        os.close(reading)


def test_any_other_kind_of_descriptor_is_refused(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    (tmp_path / "file").write_bytes(bytes(SIZE))
    file = os.open(tmp_path / "file", os.O_RDWR)
    for fd in (reading, writing, file):
        with pytest.raises(RemoteProtocolError, match=r"no memfd|lacks the seals"):
            check_sealed(fd, SIZE)
        os.close(fd)
