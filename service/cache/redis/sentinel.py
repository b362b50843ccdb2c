"""Redis behind Sentinel: each new connection first asks the sentinels for the address of the master.

The form of the URL is redis+sentinel://USER:PASSWORD@HOST:26379,HOST:26379/MASTER/DB, with the user, password and
database of the master. The query takes the options of a redis:// URL, and `sentinel_username` and `sentinel_password`.
"""

import asyncio
import re
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.exceptions import RedisError

_ADDRESS = re.compile(
    r"(?P<login>[^/@]*@)?(?P<hosts>[^/@?]+)/(?P<master>[\w.-]+)(?:/(?P<db>\d+))?(?:\?(?P<query>.*))?", re.ASCII
)
_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:]+\]|[^:\[\]]+)(?::(?P<port>\d+))?")
_PORT = 26379
_SENTINEL_LOGIN = {"sentinel_username": "username", "sentinel_password": "password"}


class MasterClient(Redis):
    """A client of the master. Closing it closes the clients of the sentinels, too."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001 - as the library has it
        """Close everything."""
        await super().aclose(close_connection_pool)
        pool: Any = self.connection_pool
        await pool.disconnect()
        await pool.sentinel_manager.aclose()


class _Sentinels(Sentinel):
    """The library's sentinels, asked at the same time: a silent one would use up the time of the command."""

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        asking = [asyncio.create_task(self._ask(sentinel, service_name)) for sentinel in self.sentinels]
        try:
            for answer in asyncio.as_completed(asking):
                if (address := await answer) is not None:
                    return address
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        raise MasterNotFoundError(f"No sentinel names a living master {service_name!r}.")

    async def _ask(self, sentinel: Redis, service_name: str) -> tuple[str, int] | None:
        try:
            masters: Any = await sentinel.sentinel_masters()
        except (RedisError, OSError):
            return None
        state = masters.get(service_name)
        if not state or not self.check_master_state(state, service_name):
            return None
        return str(state["ip"]), int(state["port"])


def master_client(scheme: str, rest: str, options: dict[str, Any]) -> MasterClient:
    """Return a client of the master that sentinels name; it opens no connection yet.

    Args:
        scheme: Scheme of all connections: `redis`, or `rediss` for TLS.
        rest: Part of the URL behind `://`.
        options: Options of the connections.

    Raises:
        ValueError: The URL has not the form above.
    """
    found = _ADDRESS.fullmatch(rest)
    hosts = [_HOST.fullmatch(host) for host in found["hosts"].split(",")] if found else []
    if found is None or not all(hosts):
        raise ValueError("not HOST:PORT,HOST:PORT/MASTER")
    given: dict[str, Any] = dict(parse_url(f"{scheme}://{found['login'] or ''}localhost?{found['query'] or ''}"))
    login = {own: given.pop(name) for name, own in _SENTINEL_LOGIN.items() if name in given}
    given.pop("host", None)
    if given.pop("connection_class", None) is SSLConnection:
        given["ssl"] = True
    tls = {name: value for name, value in given.items() if name.startswith("ssl")}
    bounds = {name: value for name, value in options.items() if name != "max_connections"}
    sentinels = _Sentinels(  # type: ignore[no-untyped-call]
        [(host["name"].strip("[]"), int(host["port"] or _PORT)) for host in hosts if host],
        sentinel_kwargs=bounds | tls | login,
    )
    master: MasterClient = sentinels.master_for(
        found["master"], redis_class=MasterClient, db=int(found["db"] or 0), **(options | given)
    )
    return master
