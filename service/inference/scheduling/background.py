"""Work that no answer waits for, such as writes to Redis: bounded, owned, and awaited when the process stops."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from service.inference.scheduling.fairness import FairCapacity
from service.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)


class BackgroundWork:
    """Runs tasks after the answers. No caller may have all of the capacity (`FairCapacity`).

    Args:
        max_tasks: Largest number of tasks at once. Further ones are dropped, because each holds a value in memory. They
            are counted as rejected for the reason `background`.
        metrics: Metrics of the process.
    """

    def __init__(self, max_tasks: int, metrics: Metrics) -> None:
        self._capacity = FairCapacity(max_tasks, "tasks run behind answers")
        self._dropped = metrics.rejected("background")
        self._tasks: dict[asyncio.Task[None], str] = {}  # each with its caller

    def start(self, work: Coroutine[Any, Any, None], caller: str = "") -> bool:
        """Start a task, unless there are too many of all callers or of this one.

        Args:
            work: Coroutine of the task.
            caller: Name of the API key; "" without API keys: then all requests share all capacity.

        Returns:
            Whether the task was started.
        """
        if not self._capacity.may_acquire(caller):
            work.close()
            self._dropped.inc()
            return False
        task = asyncio.create_task(work)
        self._tasks[task] = caller
        self._capacity.acquire(caller)
        task.add_done_callback(self._ended)
        return True

    async def aclose(self, timeout_s: float) -> None:
        """Wait for running tasks, then cancel the rest.

        Args:
            timeout_s: Seconds to wait.
        """
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._capacity.release(self._tasks.pop(task))
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("background work failed", exc_info=error)
