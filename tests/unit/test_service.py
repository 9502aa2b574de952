"""The relay's process: the settings of its memory allocator."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

BLOCKS = 1000
"""More than the per-thread cache of glibc keeps of one size: 7."""

FREED = f"""
import ctypes
from cdc_outbox import service

class Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes, libc.mallinfo2.restype = ctypes.c_void_p, [ctypes.c_void_p], Mallinfo2

def in_fastbins():
    blocks = [libc.malloc(64) for _ in range({BLOCKS})]  # kept: freeing the list may merge them
    for block in blocks:
        libc.free(block)
    return libc.mallinfo2().fsmblks

print(in_fastbins())
service.calm_allocator()
print(in_fastbins())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33")
def test_small_freed_blocks_are_merged_at_once() -> None:
    output = subprocess.run(
        (sys.executable, "-c", FREED), check=True, capture_output=True, text=True, timeout=60
    ).stdout
    before, after = map(int, output.split())
    assert before > BLOCKS / 2 * 64
    assert after == 0
