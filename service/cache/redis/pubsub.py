"""A subscription to one channel of Redis (Pub/Sub), on a connection of its own, as long as the process runs."""

import asyncio
import logging
import random
from collections.abc import Callable
from time import monotonic

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoPermissionError

from service.cache.redis.client import RedisClient

_log = logging.getLogger(__name__)

# After so much silence on the connection a PING checks that it is alive. The answer has to come in the second time.
QUIET_S = 15.0
ANSWER_S = 5.0
# Pauses between attempts double from the first figure to the second, ± 25 %, so that replicas do not all reconnect at
# the same moment. After a connection that lasted longer than the second figure they start anew.
FIRST_RETRY_S = 0.25
LAST_RETRY_S = 30.0
_JITTER = 0.25
_CANCEL_AGAIN_S = 0.1


class Subscription:
    """Calls `on_message` with each message, on the event loop. It reconnects to a Redis that is lost or refuses.

    An outage is no error for a request and does not involve the circuit breaker. The log gets one line for it and
    another for its end. Messages that are published during an outage are lost.

    Args:
        client: Client of the server. The connection does not count towards its bound.
        channel: Name of the channel.
        on_message: Function that gets the bytes of each message. They may have any content. Redis itself closes a
            connection with more than 32 MiB unread, unless it is configured otherwise.
        on_subscribed: Function that is called when the server has confirmed, at first and after each outage.
    """

    def __init__(
        self,
        client: RedisClient,
        channel: str,
        *,
        on_message: Callable[[bytes], None],
        on_subscribed: Callable[[], None],
    ) -> None:
        self._client = client
        self._channel = channel
        self._on_message = on_message
        self._on_subscribed = on_subscribed
        self._is_subscribed = False
        self._is_outage_logged = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start in the background, without waiting for the server."""
        self._task = asyncio.create_task(self._run(), name=f"subscription {self._channel}")

    async def aclose(self) -> None:
        """End the subscription."""
        # The library loses a cancellation that comes while it connects.
        while self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=_CANCEL_AGAIN_S)

    async def _run(self) -> None:
        retry_s = FIRST_RETRY_S
        while True:
            started = monotonic()
            try:
                await self._subscribe_and_receive()
            except Exception as error:  # noqa: BLE001 - the library raises many types for a broken or foreign server
                self._log_outage(error)
            if monotonic() - started > LAST_RETRY_S:
                retry_s = FIRST_RETRY_S
            await asyncio.sleep(retry_s * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311 - hides nothing
            retry_s = min(2 * retry_s, LAST_RETRY_S)

    async def _subscribe_and_receive(self) -> None:
        """Receive messages until the connection ends, which raises."""
        async with asyncio.timeout(ANSWER_S):
            connection = await self._client.subscriber_connection()
        try:
            async with asyncio.timeout(ANSWER_S):
                await connection.connect()  # type: ignore[no-untyped-call]
                await connection.send_command("SUBSCRIBE", self._channel)
            is_answer_due = True
            while True:
                message = await self._receive(connection, ANSWER_S if is_answer_due else QUIET_S)
                if message is not None:
                    is_answer_due = False
                    self._handle(message)
                    await asyncio.sleep(0)  # buffered messages are read without a wait; let requests run in between
                elif is_answer_due:
                    raise TimeoutError(f"no answer within {ANSWER_S:g} s")
                else:
                    is_answer_due = True
                    await connection.send_command("PING")
        finally:
            await connection.disconnect(nowait=True)

    async def _receive(self, connection: AbstractConnection, timeout_s: float) -> object:
        """Return the next message or answer of the server; None when it is silent for too long.

        A server that does not permit PING answers as well, so the subscription goes on. The log names the right.
        """
        try:
            return await connection.read_response(disable_decoding=True, timeout=timeout_s)
        except NoPermissionError as error:
            if not self._is_subscribed:
                raise
            self._client.log_refusal(error)
            return error

    def _handle(self, message: object) -> None:
        match message:
            case [b"message", bytes(), bytes(content)]:
                self._on_message(content)
            case [b"subscribe", *_] if not self._is_subscribed:
                self._is_subscribed, self._is_outage_logged = True, False
                _log.info("subscribed to the deletions of other replicas", extra={"channel": self._channel})
                self._on_subscribed()

    def _log_outage(self, error: Exception) -> None:
        self._is_subscribed = False
        if not self._is_outage_logged:
            self._is_outage_logged = True
            _log.warning("not subscribed to the deletions of other replicas: %s: %s", type(error).__name__, error)
