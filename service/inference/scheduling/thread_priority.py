"""The priority of threads that compute for uploads, below that of threads that answer prompts."""

import os
import sys
import threading
from contextlib import suppress

# At nice 10 a thread gets a tenth of the processor time of one at nice 0, while both compute. At nice 3 it
# would get half of it, and prompts would take noticeably longer.
LOW_PRIORITY_NICE = 10


def lower_thread_priority() -> None:
    """Give the calling thread a low priority, and all threads that it starts from now on.

    Linux keeps the nice value of each thread. On other systems this does nothing.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            thread = threading.get_native_id()
            nice = os.getpriority(os.PRIO_PROCESS, thread)
            # A process that was started with a higher nice value keeps it.
            os.setpriority(os.PRIO_PROCESS, thread, max(nice, LOW_PRIORITY_NICE))
