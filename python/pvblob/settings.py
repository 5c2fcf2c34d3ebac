"""Where things are unless told otherwise; plain standard library, because guests import it too.

Each function reads the environment it is given and nothing else; it creates nothing.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SOCKET_VARIABLE = "PVBLOB_SOCKET"


def default_socket_path(environ: Mapping[str, str] | None = None, uid: int | None = None) -> Path:
    """Return `default_socket` as a Path."""
    from pathlib import Path

    return Path(default_socket(environ, uid))


def default_socket(environ: Mapping[str, str] | None = None, uid: int | None = None) -> str:
    """Return the absolute path of the host's control socket for a process of this user.

    In this order: `$PVBLOB_SOCKET`; for root `/run/pvblob/bus.sock`, so that a service and a login shell agree;
    `$XDG_RUNTIME_DIR/pvblob/bus.sock`; `/tmp/pvblob-<uid>/bus.sock`.
    environ, uid: of this process when None.
    """
    environ = os.environ if environ is None else environ
    uid = os.geteuid() if uid is None else uid
    chosen = environ.get(SOCKET_VARIABLE)
    if chosen:
        return absolute(chosen)
    if uid == 0:
        return "/run/pvblob/bus.sock"
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    # The XDG specification: a relative path is invalid and to be ignored.
    if runtime.startswith("/"):
        return f"{runtime.rstrip('/')}/pvblob/bus.sock"
    return f"/tmp/pvblob-{uid}/bus.sock"


def absolute(path: str | os.PathLike[str]) -> str:
    """Return *path* from the root on, as `Path.absolute` does: most guests never import pathlib."""
    return os.path.join(os.getcwd(), path)  # noqa: PTH109, PTH118
