"""The asyncio client as a blocking one, so that one test can use both kinds."""

import asyncio
from collections.abc import Callable
from typing import Any

from service.client import AsyncClient

KEY = "a-key-of-the-only-team"

Connect = Callable[..., Any]


class Awaited:
    """An AsyncClient whose calls are awaited in an event loop of its own."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._client = AsyncClient(*arguments, **options)
        self._runner = asyncio.Runner()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        return lambda *arguments, **options: self._runner.run(method(*arguments, **options))

    def close(self) -> None:
        """Close both."""
        self._runner.run(self._client.aclose())
        self._runner.close()
