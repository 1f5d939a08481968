"""Size of this machine's memory."""

from __future__ import annotations

import os


def memory_size() -> int | None:
    """:return: bytes of physical memory; ``None`` where the system does not say"""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
