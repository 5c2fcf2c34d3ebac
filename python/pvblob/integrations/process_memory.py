"""The C library's allocator, told to keep what the SDK frees after each response, because it wants it back at once.

The SDK makes two fresh copies of every range it downloads (the body as `bytes`, then a `BytesIO`) and drops both with
the response. glibc hands blocks of this size back to the kernel, which must then zero and map new pages for the next
range: on 4 MiB ranges that costs four to five times what everything else does (docs/decisions/0008). It knows no
channel and no SDK. Source: mallopt(3).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

# The first GET of the SDK asks for 32 MiB; half of this is the largest block that comes from kept memory. glibc's own
# adaption may keep 64 MiB, but it begins anew whenever a larger block is freed.
FREED_BYTES_KEPT = 80 << 20

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_kept_bytes = 0


def keep_freed_memory(size_bytes: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Have malloc keep up to *size_bytes* of freed memory in this process, and serve blocks of up to half of it there.

    0 changes nothing. Returns whether the setting (or a larger one made earlier) holds: False where the user has set
    malloc up by environment variables, which win, and where the C library has no `mallopt`.
    """
    global _kept_bytes
    if size_bytes <= 0 or _set_by_user(environ):
        return False
    if size_bytes > _kept_bytes:
        try:
            mallopt = ctypes.CDLL(None).mallopt
        except AttributeError:
            return False
        if not (
            mallopt(_M_MMAP_THRESHOLD, min(size_bytes // 2, _INT_MAX))
            and mallopt(_M_TRIM_THRESHOLD, min(size_bytes, _INT_MAX))
        ):
            return False
        _kept_bytes = size_bytes
    return True


_INT_MAX = 2**31 - 1


def _set_by_user(environ: Mapping[str, str]) -> bool:
    return (
        "MALLOC_MMAP_THRESHOLD_" in environ
        or "MALLOC_TRIM_THRESHOLD_" in environ
        or "glibc.malloc." in environ.get("GLIBC_TUNABLES", "")
    )
