"""The C library keeps one arena, however many threads there are."""

import platform
import subprocess
import sys

import pytest

from exporter.allocator import LARGE_BYTES

SCRIPT = """
import ctypes, sys, threading
from exporter.allocator import keep_small
if sys.argv[1] == "small":
    assert keep_small()
ready = threading.Barrier(20)
def hold():
    kept = [bytearray({size}) for _ in range(50)]
    ready.wait()
threads = [threading.Thread(target=hold) for _ in range(20)]
for thread in threads: thread.start()
for thread in threads: thread.join()
ctypes.CDLL(None).malloc_stats()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="arenas are glibc's")
def test_threads_share_one_arena() -> None:
    """Twenty threads that allocate at once make several arenas, and only one where the process was told so before."""
    script = SCRIPT.format(size=LARGE_BYTES // 16)

    def arenas(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", script, how], capture_output=True, text=True, check=True)
        return done.stderr.count("Arena ")

    assert (arenas("as it is") > 1, arenas("small")) == (True, 1)


def test_free_memory_goes_back() -> None:
    """What many small pieces leave behind is given to the system; elsewhere than under glibc nothing happens."""
    script = (
        "from exporter.allocator import give_back\n"
        "def resident(): return int(open('/proc/self/statm').read().split()[1])\n"
        "pieces = [bytearray(2000) for _ in range(20000)]\n"
        "last = bytearray(2000)\n"
        "del pieces\nbefore = resident()\ngive_back()\nprint(before - resident())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 1000 or platform.libc_ver()[0] != "glibc"
