"""Awaiting several coroutines of one request as a whole."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

Result = TypeVar("Result")


async def gather_or_cancel(work: Sequence[Coroutine[Any, Any, Result]], *, at_once: int | None = None) -> list[Result]:
    """Await coroutines that run at the same time, and return their results in order.

    When one of them fails, or the caller is cancelled, the others are cancelled and awaited first. So no work of the
    request continues without an owner.

    Args:
        work: Coroutines of one request.
        at_once: Number of coroutines that run at the same time; None for all.
    """
    permits = asyncio.Semaphore(at_once or max(1, len(work)))

    async def run(one: Coroutine[Any, Any, Result]) -> Result:
        async with permits:
            return await one

    tasks = [asyncio.create_task(run(one)) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for one in work:
            one.close()  # a coroutine that was never started would warn
