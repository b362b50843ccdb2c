"""How many arenas glibc has, as it counts them itself, in processes whose threads take memory all at once."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="arenas are glibc's")

_THREADS = 6
_PROGRAM = f"""
import ctypes, sys
from threading import Barrier, Thread

if sys.argv[1] == "shared":
    from service.allocator import share_one_arena

    print("done" if share_one_arena() else "left", file=sys.stderr)

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.fdopen.restype, libc.fdopen.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_char_p]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
libc.fflush.argtypes = [ctypes.c_void_p]
barrier = Barrier({_THREADS})


def take():
    barrier.wait(30)
    assert libc.malloc(50_000)
    barrier.wait(30)  # a thread that ends gives its arena to the next one


threads = [Thread(target=take) for _ in range({_THREADS})]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
stream = libc.fdopen(1, b"w")
libc.malloc_info(0, stream)
libc.fflush(stream)
"""


def _arenas(how: str, environment: Mapping[str, str]) -> tuple[int, str]:
    """Arenas of a process at its end, and what it says of them."""
    kept = {name: value for name, value in os.environ.items() if name not in {"MALLOC_ARENA_MAX", "GLIBC_TUNABLES"}}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, how],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return len(re.findall(r"<heap nr=", done.stdout)), done.stderr.strip()


def test_threads_share_one_arena_where_each_had_its_own():
    alone, _ = _arenas("alone", {})
    assert alone > 2

    assert _arenas("shared", {}) == (1, "done")


@pytest.mark.parametrize(
    "environment", [{"MALLOC_ARENA_MAX": "3"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=3"}], ids=min
)
def test_whoever_set_a_number_keeps_it(environment):
    assert _arenas("shared", environment) == (3, "left")
