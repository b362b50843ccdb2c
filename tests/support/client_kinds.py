"""A blocking wrapper of the asyncio client, so that one test can use both clients."""

import asyncio
from collections.abc import Callable
from typing import Any

from service.client import AsyncClient

KEY = "a-key-of-the-only-team"

Connect = Callable[..., Any]


class Awaited:
    """An AsyncClient whose methods run in an event loop of its own, and block."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._client = AsyncClient(*arguments, **options)
        self._runner = asyncio.Runner()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        return lambda *arguments, **options: self._runner.run(method(*arguments, **options))

    def close(self) -> None:
        """Close the client and its event loop."""
        self._runner.run(self._client.aclose())
        self._runner.close()
