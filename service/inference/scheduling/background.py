"""Work that an answer does not wait for, bounded and owned."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from service.inference.scheduling.fairness import FairCapacity
from service.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)


class BackgroundWork:
    """Runs tasks behind the answers. No caller may have all of the room there is (`FairCapacity`).

    Args:
        max_tasks: beyond these new ones are dropped, because each holds a value in memory; they are counted as
            rejected for the reason `background`.
    """

    def __init__(self, max_tasks: int, metrics: Metrics) -> None:
        self._places = FairCapacity(max_tasks, "tasks run behind answers")
        self._dropped = metrics.rejected("background")
        self._tasks: dict[asyncio.Task[None], str] = {}  # and whose they are

    def start(self, work: Coroutine[Any, Any, None], caller: str = "") -> bool:
        """Start `work` unless there is too much already, or too much of this caller's; whether it was started.

        Args:
            work: the task.
            caller: whose it is; "" where nobody is told apart, which then may fill all of the room together.
        """
        if not self._places.has_room(caller):
            work.close()
            self._dropped.inc()
            return False
        task = asyncio.create_task(work)
        self._tasks[task] = caller
        self._places.take(caller)
        task.add_done_callback(self._ended)
        return True

    async def aclose(self, timeout_s: float) -> None:
        """Wait for what is running, then cancel what is left."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._places.give_back(self._tasks.pop(task))
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("background work failed", exc_info=error)
