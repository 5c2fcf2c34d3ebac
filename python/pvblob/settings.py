"""Where things are unless told otherwise; plain standard library, because guests import it too.

Each function reads the environment it is given and nothing else; it creates nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

SOCKET_VARIABLE = "PVBLOB_SOCKET"


def default_socket_path(environ: Mapping[str, str] | None = None, uid: int | None = None) -> Path:
    """Return the absolute path of the host's control socket for a process of this user.

    In this order: `$PVBLOB_SOCKET`; for root `/run/pvblob/bus.sock`, so that a service and a login shell agree;
    `$XDG_RUNTIME_DIR/pvblob/bus.sock`; `/tmp/pvblob-<uid>/bus.sock`.
    environ, uid: of this process when None.
    """
    environ = os.environ if environ is None else environ
    uid = os.geteuid() if uid is None else uid
    chosen = environ.get(SOCKET_VARIABLE)
    if chosen:
        return Path(chosen).absolute()
    if uid == 0:
        return Path("/run/pvblob/bus.sock")
    runtime = Path(environ.get("XDG_RUNTIME_DIR", ""))
    # The XDG specification: a relative path is invalid and to be ignored.
    if runtime.is_absolute():
        return runtime / "pvblob" / "bus.sock"
    return Path(f"/tmp/pvblob-{uid}/bus.sock")
