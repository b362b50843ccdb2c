"""The priority of threads that compute for uploads, below that of threads that answer prompts."""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

Result = TypeVar("Result")

# At nice 10 a thread gets a tenth of the processor time of one at nice 0, while both compute. At nice 3 it
# would get half of it, and prompts would take noticeably longer.
LOW_PRIORITY_NICE = 10


def lower_thread_priority() -> None:
    """Give the calling thread a low priority, and all threads that it starts from now on.

    Linux keeps the nice value of each thread. On other systems this does nothing.
    """
    if sys.platform == "linux" and hasattr(os, "setpriority"):
        with suppress(OSError):
            thread = threading.get_native_id()
            nice = os.getpriority(os.PRIO_PROCESS, thread)
            # A process that was started with a higher nice value keeps it.
            os.setpriority(os.PRIO_PROCESS, thread, max(nice, LOW_PRIORITY_NICE))


def run_at_low_priority(function: Callable[..., Result], *arguments: object) -> Result:
    """Run a blocking function in a thread of low priority, and wait for its result.

    The calling thread keeps its priority, which no unprivileged thread can raise again.

    Args:
        function: Function to run. Threads that it starts have a low priority, too.
        *arguments: Arguments of the function.
    """
    with ThreadPoolExecutor(1, initializer=lower_thread_priority) as executor:
        return executor.submit(function, *arguments).result()
