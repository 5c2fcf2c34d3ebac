"""From what a program calls its memory to the descriptor behind it: what can be lent to the host as it lies.

A range of addresses is looked up in /proc/self/maps, which names the file that it maps; the descriptor is one that this
process has open on that very file, or the file itself if it still has a name. So anything works that is shared memory:
mmap over a memfd, multiprocessing.shared_memory, numpy arrays and torch tensors over either. Nothing is mapped or
changed here. Source: proc_pid_maps(5).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pvblob import _native

_HOW = (
    "only shared memory that has a descriptor can be registered: multiprocessing.shared_memory.SharedMemory, "
    "mmap.mmap over os.memfd_create, a shared torch tensor, or (fd, offset, size_bytes)"
)


@dataclass(slots=True)
class Memory:
    """Memory as it was found. fd: a duplicate, the caller's to close.  offset: of its first byte in the descriptor.

    address: where the program has mapped it, None when it was given as a descriptor.  owner: what keeps it there.
    """

    fd: int
    offset: int
    size_bytes: int
    address: int | None = None
    owner: object = None


class _Mapping(NamedTuple):
    start: int
    end: int
    shared: bool
    offset: int
    device: int
    inode: int
    path: str


def locate(memory: Any) -> Memory:
    """Find the descriptor behind *memory*.

    memory: (fd, offset, size_bytes), a shared torch tensor, SharedMemory, any contiguous buffer over shared memory, or
    an object with `fileno`. Raises ValueError saying what it is instead and what would do; OSError: a bad descriptor.
    """
    if isinstance(memory, tuple):
        return _of_descriptor(*_descriptor_range(memory))
    if hasattr(memory, "untyped_storage"):
        return _of_tensor(memory)
    try:
        # SharedMemory is no buffer itself; its `buf` is.
        view = memoryview(memory.buf if not _is_buffer(memory) and hasattr(memory, "buf") else memory)
    except TypeError:
        if not hasattr(memory, "fileno"):
            raise ValueError(f"{type(memory).__name__} is no memory: {_HOW}") from None
        fd = memory.fileno()
        return _of_descriptor(fd, 0, os.fstat(fd).st_size)
    address, size_bytes = _native.buffer_address(view)
    return _of_address(address, size_bytes, view)


def _is_buffer(memory: object) -> bool:
    try:
        memoryview(memory).release()  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


def _descriptor_range(memory: tuple[Any, ...]) -> tuple[int, int, int]:
    if len(memory) != 3 or not all(isinstance(part, int) for part in memory):
        raise ValueError(f"{memory!r} is not (fd, offset, size_bytes), three integers")
    fd, offset, size_bytes = memory
    if offset < 0 or size_bytes <= 0:
        raise ValueError(
            f"offset {offset}, size_bytes {size_bytes}: the range must begin at 0 or later and not be empty"
        )
    return fd, offset, size_bytes


def _of_descriptor(fd: int, offset: int, size_bytes: int) -> Memory:
    if size_bytes <= 0:
        raise ValueError("the memory has no bytes")
    end = os.fstat(fd).st_size
    if offset + size_bytes > end:
        raise ValueError(f"bytes {offset} to {offset + size_bytes} pass the descriptor's end at {end}")
    return Memory(os.dup(fd), offset, size_bytes)


def _of_tensor(tensor: Any) -> Memory:
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise ValueError("only contiguous CPU tensors can be registered")
    # The storage is held, not the tensor: set_() could give the tensor another one.
    return _of_address(tensor.data_ptr(), tensor.numel() * tensor.element_size(), tensor.untyped_storage())


def _of_address(address: int, size_bytes: int, owner: object) -> Memory:
    if size_bytes == 0:
        raise ValueError("the memory has no bytes")
    mapping = _mapping_of(address, size_bytes)
    if not mapping.shared:
        raise ValueError(f"this is private memory of the process: {_HOW}")
    fd = _open_descriptor(mapping)
    if fd is None:
        raise ValueError(f"no open descriptor of this process belongs to {mapping.path or 'this memory'}: {_HOW}")
    return Memory(fd, mapping.offset + address - mapping.start, size_bytes, address, owner)


def _mapping_of(address: int, size_bytes: int) -> _Mapping:
    """Return the mapping that holds the range; neighbours that continue one another in their file count as one."""
    found: _Mapping | None = None
    for one in _mappings():
        if found is None:
            if one.start <= address < one.end:
                found = one
        elif found.end == one.start and _continues(found, one):
            found = found._replace(end=one.end)
        else:
            break
    if found is None or address + size_bytes > found.end:
        raise ValueError(f"the memory is not one mapping: {_HOW}")
    return found


def _continues(before: _Mapping, after: _Mapping) -> bool:
    same = (before.shared, before.device, before.inode) == (after.shared, after.device, after.inode)
    return same and before.offset + before.end - before.start == after.offset


def _mappings() -> Iterator[_Mapping]:
    with Path("/proc/self/maps").open(encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            span, permissions, offset, device, inode, *path = line.rstrip("\n").split(maxsplit=5)
            start, end = (int(part, 16) for part in span.split("-"))
            number = os.makedev(*(int(part, 16) for part in device.split(":")))
            yield _Mapping(
                start, end, permissions[3] == "s", int(offset, 16), number, int(inode), path[0] if path else ""
            )


def _open_descriptor(mapping: _Mapping) -> int | None:
    """Return a duplicate of a descriptor for reading and writing on the mapped file, None if there is none."""
    for entry in Path("/proc/self/fd").iterdir():
        fd = int(entry.name)
        try:
            if _is_on(fd, mapping) and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR:
                return os.dup(fd)
        except OSError:  # closed meanwhile: the listing's own, or another thread's
            continue
    if not mapping.path.startswith("/") or mapping.path.endswith(" (deleted)"):
        return None
    try:
        fd = os.open(mapping.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    if _is_on(fd, mapping):
        return fd
    os.close(fd)
    return None


def _is_on(fd: int, mapping: _Mapping) -> bool:
    status = os.fstat(fd)
    return (status.st_dev, status.st_ino) == (mapping.device, mapping.inode)
