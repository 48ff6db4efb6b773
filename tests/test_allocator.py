"""Freed memory is kept for the next tensors, and goes back when another trial begins."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="for the GNU C library only"
)

# what a step does: blocks of 16 MiB, written to, and all of them freed again
STEPS = """
import ctypes, psutil, resource, sys
from suite.system import allocator
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
if "keep" in sys.argv:
    allocator.keep_freed()
def step():
    held = [libc.malloc(2**24) for _ in range(10)]
    for block in held:
        libc.memset(block, 1, 2**24)
    while held:
        libc.free(held.pop())
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    step()
before = faults()
for _ in range(5):
    step()
mapped, kept = faults() - before, psutil.Process().memory_info().rss
allocator.keep_freed()
print(mapped, kept - psutil.Process().memory_info().rss)
"""


def run(*arguments: str) -> tuple[int, int]:
    """Page faults of five steps, and bytes that a call at the end gave back."""
    done = subprocess.run(
        [sys.executable, "-c", STEPS, *arguments], capture_output=True, text=True, check=True
    )
    faults, returned = map(int, done.stdout.split())
    return faults, returned


def huge_pages() -> bool:
    """Whether a fault maps 2 MiB and not 4 KiB, so that there are few in any case."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return setting.exists() and "[always]" in setting.read_text()


@pytest.mark.skipif(huge_pages(), reason="with huge pages there are few page faults in any case")
def test_blocks_are_not_mapped_anew_in_each_step() -> None:
    faults, returned = run("keep")
    assert 10 * faults < run()[0]
    assert returned > 100 * 2**20, "what an earlier trial held stays with the process"
