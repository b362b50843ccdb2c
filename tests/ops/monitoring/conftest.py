"""A monitored service under load, shared by the tests of this folder because its start and use take half a minute."""

from collections.abc import Iterator
from time import time

import pytest
from support.watched_service import WatchedService

USED_S = 25.0


class Watched(WatchedService):
    """A monitored service and the time of its load.

    Attributes:
        began: Start of the load, in seconds since 1970.
        ended: End of the load, in seconds since 1970.
    """

    began: float
    ended: float

    @property
    def span(self) -> dict[str, float]:
        """The time of the load, as parameters of Prometheus' query API."""
        return {"start": self.began, "end": self.ended}


@pytest.fixture(scope="session")
def watched() -> Iterator[Watched]:
    """A service after prompts, uploads, bad requests, refusals, evictions and a paused Redis."""
    with Watched() as service:
        service.wait_for_scrapes()
        service.began = time()
        service.use(USED_S)
        service.wait_for_scrapes()
        service.ended = time()
        yield service
