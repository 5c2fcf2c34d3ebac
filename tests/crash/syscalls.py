"""What processes did to files, as `strace` saw it: every call with its data, when it began and when it ended.

Nothing is preloaded and nothing in the program helps: SQLite, Python and the compiled module are recorded alike.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CALLS = (
    "openat,creat,write,writev,pwrite64,pwritev,pwritev2,fsync,fdatasync,sync_file_range,ftruncate,truncate,fallocate,"
    "copy_file_range,sendfile,rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,mkdir,mkdirat"
)
STRING_BYTES_MAX = 8 << 20

_LINE = re.compile(r"(\d+) +(.*)", re.DOTALL)
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>(.*)", re.DOTALL)
_CALL = re.compile(r"(\w+)\((.*)\) = (-?\d+|\?)(?:<[^>]*>)?( [A-Z]+ \(.*\))?$", re.DOTALL)
_FD = re.compile(r"(-?\d+|AT_FDCWD)(?:<(.*)>)?$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Call:
    """One system call. began, ended: line numbers of the trace; ended is None when its process was killed in it."""

    began: int
    ended: int | None
    name: str
    arguments: tuple[str, ...]
    result: int

    def text(self, index: int) -> bytes:
        """Return a string argument's bytes."""
        return _unhex(self.arguments[index].strip('"'))

    def path(self, index: int = 0) -> str:
        """Return the path of a descriptor argument, "" when it is no file."""
        match = _FD.match(self.arguments[index])
        return _unhex(match[2]).decode() if match and match[2] else ""

    def number(self, index: int) -> int:
        """Return a numeric argument."""
        return int(self.arguments[index], 0)


def _unhex(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", "")) if "\\x" in text else text.encode()


def record(command: list[str], trace: Path, timeout_s: float) -> str:
    """Run *command* and its children under strace; return its output."""
    strace = shutil.which("strace")
    assert strace is not None, "strace is missing (Debian: apt-get install strace)"
    watched = [strace, "-f", "--seccomp-bpf", "-qq", "-y", "-xx", "-e", f"trace={CALLS}", "-e", "signal=none"]
    options = ["-s", str(STRING_BYTES_MAX), "-o", str(trace)]
    done = subprocess.run([*watched, *options, *command], stdout=subprocess.PIPE, text=True, timeout=timeout_s)
    assert done.returncode == 0, f"{command} ended with {done.returncode}"
    return done.stdout


def read(trace: Path) -> Iterator[Call]:
    """Yield the calls in the order in which they began, those that failed left out."""
    begun: dict[str, tuple[int, str]] = {}
    calls: list[Call] = []
    with trace.open() as lines:
        for number, line in enumerate(lines):
            match = _LINE.match(line.rstrip("\n"))
            assert match is not None, line[:200]
            process, rest = match[1], match[2]
            resumed = _RESUMED.match(rest)
            if rest.endswith("<unfinished ...>"):
                begun[process] = number, rest.removesuffix("<unfinished ...>").rstrip()
                continue
            start = number
            if resumed is not None:
                start, head = begun.pop(process)
                rest = head + resumed[1]
            call = _parse(start, number, rest)
            if call is not None:
                calls.append(call)
    for start, head in begun.values():
        call = _parse(start, None, f"{head}) = 0" if not head.endswith(")") else f"{head} = 0")
        if call is not None:
            calls.append(call)
    yield from sorted(calls, key=lambda call: call.began)


def _parse(began: int, ended: int | None, text: str) -> Call | None:
    match = _CALL.match(re.sub(r"\)\s+= ", ") = ", text))
    if match is None:
        return None
    if match[3] == "?":  # its process was killed in it
        return Call(began, None, match[1], tuple(_split(match[2])), 0)
    if int(match[3]) < 0:
        return None
    return Call(began, ended, match[1], tuple(_split(match[2])), int(match[3]))


def _split(arguments: str) -> list[str]:
    """Split at the commas outside of quotes, brackets and angles; with -xx no string contains one of these."""
    parts, depth, start = [], 0, 0
    for match in re.finditer(r"[\[\]{}<>,]", arguments):
        character = match[0]
        if character in "[{<":
            depth += 1
        elif character in "]}>":
            depth -= 1
        elif depth == 0:
            parts.append(arguments[start : match.start()].strip())
            start = match.end()
    parts.append(arguments[start:].strip())
    return parts
