"""Secrets: where they lie, read when they are needed, read again when they change; never shown.

A file is looked at again at most once a second, so a new key counts without a restart. Nothing that this module makes
has its secret in its repr or in an error's text.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from pvblob.errors import SettingsError

_LOOK_AGAIN_AFTER_S = 1.0
_SECRET_BYTES_MAX = 64 * 1024


class Secret(Protocol):
    """Something that can be revealed, and changes."""

    def reveal(self) -> str:
        """Return the secret as it is now. Raises SettingsError, without the secret, when it cannot be had."""
        ...

    def look_again(self) -> None:
        """Forget what was read: somebody refused it, or a signal says that it changed."""
        ...

    def __str__(self) -> str:
        """Return where it lies, in words."""
        ...


class SecretFile:
    """The content of a file, blanks around it aside.

    A relative name is looked for in *directory* first: `$CREDENTIALS_DIRECTORY`, where systemd puts credentials.
    A file that cannot be read for a moment, while it is replaced, leaves the last content in force.
    """

    def __init__(self, path: Path, environ: Mapping[str, str] | None = None) -> None:
        directory = (os.environ if environ is None else environ).get("CREDENTIALS_DIRECTORY")
        inside = Path(directory) / path if directory and not path.is_absolute() else None
        self.path = inside if inside is not None and inside.exists() else path
        self._identity: tuple[int, int, int] | None = None
        self._text = ""
        self._looked_at_s = float("-inf")

    def reveal(self) -> str:
        """Return the file's content, at most a second old."""
        now_s = time.monotonic()
        if now_s - self._looked_at_s >= _LOOK_AGAIN_AFTER_S:
            self._look()
            self._looked_at_s = now_s
        return self._text

    def look_again(self) -> None:
        """Read the file at the next `reveal`, whatever its age."""
        self._looked_at_s = float("-inf")
        self._identity = None

    def _look(self) -> None:
        try:
            stat = self.path.stat()
            identity = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if identity != self._identity:
                self._read(stat.st_size)
                self._identity = identity
        except (OSError, UnicodeDecodeError) as error:
            if not self._text:
                reason = error.strerror if isinstance(error, OSError) else "not text"
                raise SettingsError(f"secret file {self.path}: {reason}") from None

    def _read(self, size_bytes: int) -> None:
        if size_bytes > _SECRET_BYTES_MAX:
            raise SettingsError(f"secret file {self.path}: {size_bytes} bytes are no secret")
        text = self.path.read_text("utf-8").strip()
        if not text:
            raise SettingsError(f"secret file {self.path}: it is empty")
        self._text = text

    def __str__(self) -> str:
        return f"secret file {self.path}"

    def __repr__(self) -> str:
        return f"SecretFile({str(self.path)!r})"


class SecretVariable:
    """The value of an environment variable, taken when the host starts."""

    def __init__(self, name: str, environ: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._value = (os.environ if environ is None else environ).get(name, "").strip()

    def reveal(self) -> str:
        """Return the value."""
        if not self._value:
            raise SettingsError(f"environment variable {self.name} is not set")
        return self._value

    def look_again(self) -> None:
        """Do nothing: a process's environment does not change."""

    def __str__(self) -> str:
        return f"environment variable {self.name}"

    def __repr__(self) -> str:
        return f"SecretVariable({self.name!r})"
