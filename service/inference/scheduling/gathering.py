"""Awaiting several coroutines of one request as a whole."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

Result = TypeVar("Result")


async def gather_or_cancel(work: Sequence[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Await coroutines that run at the same time, and return their results in order.

    When one of them fails, or the caller is cancelled, the others are cancelled and awaited first. So no work of the
    request continues without an owner.
    """
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
