"""A disk that forgets: what files may look like after a power cut, by the rules of POSIX and nothing kinder.

A write is safe once an fsync of its file that began after it has ended; a name is safe once its directory was synced.
Everything else may be there whole, in part (by sectors of 512 bytes), as a longer file full of zeros, or not at all, in
any combination. Fed with recorded system calls under one directory.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.syscalls import Call

SECTOR_BYTES = 512


@dataclass(slots=True)
class Change:
    """A write, truncation or hole of a file. data: b"" with *length* for the latter two."""

    kind: str
    offset: int
    data: bytes
    length: int
    ended: int | None


@dataclass(slots=True)
class File:
    """One inode: the bytes that are safe and the changes that are not, in order."""

    is_directory: bool = False
    safe: bytearray = field(default_factory=bytearray)
    changes: list[Change] = field(default_factory=list)

    def sync(self, before: int) -> None:
        """Make safe what had ended before line *before* of the trace."""
        left = []
        for change in self.changes:
            if change.ended is not None and change.ended < before:
                apply(self.safe, change)
            else:
                left.append(change)
        self.changes = left

    def seen(self) -> bytes:
        """Return what a running system sees."""
        content = bytearray(self.safe)
        for change in self.changes:
            apply(content, change)
        return bytes(content)

    def survive(self, fate: Callable[[Change], str], chance: random.Random) -> bytes:
        """Return what a power cut leaves."""
        content = bytearray(self.safe)
        for change in self.changes:
            match fate(change):
                case "kept":
                    apply(content, change)
                case "torn" if change.kind == "write":
                    _apply_torn(content, change, chance)
                case "zeros" if change.kind == "write":
                    content.extend(bytes(max(0, change.offset + len(change.data) - len(content))))
        return bytes(content)


def apply(content: bytearray, change: Change) -> None:
    """Carry out *change* on *content*."""
    if change.kind == "truncate":
        del content[change.length :]
        content.extend(bytes(change.length - len(content)))
    elif change.kind == "punch":
        end = min(change.offset + change.length, len(content))
        content[change.offset : end] = bytes(max(0, end - change.offset))
    else:
        content.extend(bytes(max(0, change.offset - len(content))))
        content[change.offset : change.offset + len(change.data)] = change.data


def _apply_torn(content: bytearray, change: Change, chance: random.Random) -> None:
    """Carry out some of the sectors of a write."""
    at, end = change.offset, change.offset + len(change.data)
    while at < end:
        following = min(end, (at // SECTOR_BYTES + 1) * SECTOR_BYTES)
        if chance.random() < 0.5:
            part = change.data[at - change.offset : following - change.offset]
            apply(content, Change("write", at, part, len(part), None))
        at = following


@dataclass(slots=True)
class Naming:
    """A change of a directory: *path* now names *file* (None: nothing; a directory is a File too)."""

    path: str
    file: File | None
    ended: int | None


class Disk:
    """The files under *root*, a directory that is there for good."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.names: dict[str, File] = {}  # as a running system sees them
        self._safe_names: dict[str, File] = {}
        self._namings: list[Naming] = []
        self._syncs: list[tuple[int, str, File | None, int]] = []  # when it ends, path, file, when it began

    # ---- recording

    def feed(self, call: Call) -> None:
        """Take the next call, in the order in which they began."""
        self.settle(call.began)
        handler = getattr(self, f"_{call.name}", None)
        if handler is not None:
            handler(call)

    def settle(self, line: int) -> None:
        """Carry out the syncs that have ended before *line*."""
        while self._syncs and self._syncs[0][0] < line:
            _, path, file, began = self._syncs.pop(0)
            if file is not None:
                file.sync(began)
            left = []
            for naming in self._namings:
                safe = naming.ended is not None and naming.ended < began and parent(naming.path) == path
                if safe:
                    self._name(self._safe_names, naming)
                else:
                    left.append(naming)
            self._namings = left

    @staticmethod
    def _name(names: dict[str, File], naming: Naming) -> None:
        if naming.file is None:
            names.pop(naming.path, None)
        else:
            names[naming.path] = naming.file

    def _mine(self, path: str) -> bool:
        return path.startswith(self.root + "/") and not path.endswith("-shm")

    def _rename_to(self, path: str, file: File | None, call: Call) -> None:
        naming = Naming(path, file, call.ended)
        self._namings.append(naming)
        self._name(self.names, naming)

    def _openat(self, call: Call) -> None:
        path = call.text(1).decode()
        if self._mine(path) and "O_CREAT" in call.arguments[2] and path not in self.names:
            self._rename_to(path, File(), call)
        if self._mine(path) and "O_TRUNC" in call.arguments[2]:
            self.names[path].changes.append(Change("truncate", 0, b"", 0, call.ended))

    def _change(self, call: Call, kind: str, offset: int, data: bytes, length: int) -> None:
        path = call.path()
        if self._mine(path):
            assert path in self.names, f"{call.name} to {path}, whose making was not recorded"
            self.names[path].changes.append(Change(kind, offset, data, length, call.ended))

    def _write(self, call: Call) -> None:
        assert not self._mine(call.path()), f"write() without an offset to {call.path()} is not modelled"

    _writev = _pwritev = _pwritev2 = _copy_file_range = _sendfile = _write

    def _pwrite64(self, call: Call) -> None:
        data = call.text(1)
        written = data[: call.result] if call.ended is not None else data
        self._change(call, "write", call.number(3), written, len(written))

    def _ftruncate(self, call: Call) -> None:
        self._change(call, "truncate", 0, b"", call.number(1))

    def _fallocate(self, call: Call) -> None:
        if self._mine(call.path()):
            assert "FALLOC_FL_PUNCH_HOLE" in call.arguments[1], call.arguments[1]
            self._change(call, "punch", call.number(2), b"", call.number(3))

    def _fsync(self, call: Call) -> None:
        path = call.path()
        if call.ended is not None and (self._mine(path) or path == self.root):
            self._syncs.append((call.ended, path, self.names.get(path), call.began))
            self._syncs.sort(key=lambda sync: sync[0])

    _fdatasync = _fsync

    def _unlink(self, call: Call) -> None:
        path = call.text(0).decode()
        if self._mine(path):
            self._rename_to(path, None, call)

    def _mkdir(self, call: Call) -> None:
        path = call.text(0).decode()
        if self._mine(path):
            self._rename_to(path, File(is_directory=True), call)

    def _rename(self, call: Call) -> None:
        assert not self._mine(call.text(0).decode()), "rename is not modelled"

    _renameat = _renameat2 = _link = _linkat = _unlinkat = _rename

    # ---- what is left

    def adopt(self, directory: Path, line: int) -> list[str]:
        """Take over what a killed process left under *directory*, a copy of the root.

        A call in which a process was killed may have had its effect or a part of it. Returns the files that differ
        from the record though no such call explains it: what the recorder has missed.
        """
        different = []
        explained = {name for name, file in self.names.items() if any(c.ended is None for c in file.changes)}
        explained |= {naming.path for naming in self._namings if naming.ended is None}
        found = {f"{self.root}/{path.relative_to(directory)}": path for path in directory.rglob("*")}
        found = {name: path for name, path in found.items() if self._mine(name)}
        self._decide_namings(found, line)
        for name in found.keys() | self.names.keys():
            if (name in found) != (name in self.names):
                different.append(name)
                file = File(found[name].is_dir()) if name in found else None
                self._namings.append(Naming(name, file, line))
                self._name(self.names, self._namings[-1])
        for name, path in found.items():
            file = self.names[name]
            file.changes = [change for change in file.changes if change.ended is not None]
            if path.is_file() and file.seen() != path.read_bytes():
                different.append(name)
                whole = path.read_bytes()
                file.changes += [
                    Change("truncate", 0, b"", len(whole), line),
                    Change("write", 0, whole, len(whole), line),
                ]
        return [name for name in different if name not in explained]

    def _decide_namings(self, found: Container[str], line: int) -> None:
        """Say of each naming in which a process was killed whether it happened, as the copy shows.

        Undecided, it could come back after later ones were made safe.
        """
        left = []
        for naming in self._namings:
            if naming.ended is None and (naming.path in found) == (naming.file is not None):
                naming.ended = line
            if naming.ended is not None:
                left.append(naming)
        self._namings = left

    def rebuild(self, directory: Path, chance: random.Random) -> str:
        """Write into *directory* what a power cut now may leave; return how it went about it."""
        mode, fate = choose_fate(chance)
        names = dict(self._safe_names)
        for naming in self._namings:
            if fate(None) in ("kept", "zeros"):
                self._name(names, naming)
        for path, file in sorted(names.items()):
            target = directory / path.removeprefix(self.root + "/")
            if not target.parent.is_dir():
                continue  # the directory that named it is gone
            if file.is_directory:
                target.mkdir()
            else:
                target.write_bytes(file.survive(fate, chance))
        return mode


def choose_fate(chance: random.Random) -> tuple[str, Callable[[Change | None], str]]:
    """Choose what becomes of what is not safe: a name for it, and a function from a change to its fate."""
    mode = chance.choice(["nothing", "everything", "half", "half", "torn", "torn", "zeros", "data", "names"])
    fates = ["kept", "torn", "zeros", "lost"]

    def fate(change: Change | None) -> str:
        match mode:
            case "nothing":
                return "lost"
            case "everything":
                return "kept"
            case "half":
                return chance.choice(["kept", "lost"])
            case "torn":
                return chance.choice(fates)
            case "zeros":
                return chance.choice(["zeros", "lost", "kept"])
            case "data":
                return "lost" if change is None or change.kind != "write" else chance.choice(["kept", "kept", "torn"])
            case _:
                return "kept" if change is None or change.kind != "write" else chance.choice(fates)

    return mode, fate


def parent(path: str) -> str:
    """Return the directory of *path*."""
    return path.rpartition("/")[0]
