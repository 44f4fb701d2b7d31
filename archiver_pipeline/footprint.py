"""Keeps what a process allocates near to what it uses. Has to come before Arrow is imported."""

import ctypes
import os
from collections.abc import MutableMapping

_ARENA_MAX = -8
"""glibc's M_ARENA_MAX."""
_ARENAS = 2


def keep_footprint_small(environ: MutableMapping[str, str] = os.environ) -> None:
    """Few pools that give memory back rather than one for each thread that keeps its own; what the environment says of
    them itself holds. Threads here work on large blocks, seldom allocated, so it costs no time."""
    environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "MALLOC_ARENA_MAX" not in environ:
        mallopt(_ARENA_MAX, _ARENAS)
