"""One watched service for the room: it takes half a minute to bring up and use."""

from collections.abc import Iterator
from time import time

import pytest
from support.watched_service import WatchedService

USED_S = 25.0


class Watched(WatchedService):
    """A service that was used, and between which moments, seconds since 1970."""

    began: float
    ended: float

    @property
    def span(self) -> dict[str, float]:
        """As the query API wants it."""
        return {"start": self.began, "end": self.ended}


@pytest.fixture(scope="session")
def watched() -> Iterator[Watched]:
    """Clicks, uploads, mistakes, refusals, evictions and a Redis that hung lie behind it."""
    with Watched() as service:
        service.wait_for_scrapes()
        service.began = time()
        service.use(USED_S)
        service.wait_for_scrapes()
        service.ended = time()
        yield service
