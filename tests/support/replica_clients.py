"""Two service processes at a time, and a client of each."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import httpx
from support.service_client import open_client
from support.service_process import ServiceProcess

Clients = tuple[httpx.Client, httpx.Client]


@contextmanager
def two_replicas(first: Mapping[str, str], second: Mapping[str, str]) -> Iterator[Clients]:
    """Yield clients of two replicas with these settings."""
    with (
        ServiceProcess(first) as one,
        ServiceProcess(second) as other,
        open_client(one.url) as one_client,
        open_client(other.url) as other_client,
    ):
        yield one_client, other_client


def replicas_of_roles(settings: Mapping[str, str]) -> AbstractContextManager[Clients]:
    """Return clients of a replica that embeds and of one that segments.

    Args:
        settings: Settings of both but the role.
    """
    return two_replicas({**settings, "EDGESAM_ROLE": "embed"}, {**settings, "EDGESAM_ROLE": "segment"})
