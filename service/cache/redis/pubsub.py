"""One channel of Redis (Pub/Sub) that is listened to, on a connection of its own, for as long as the process runs."""

import asyncio
import logging
import random
from collections.abc import Callable
from time import monotonic

from service.cache.redis.client import RedisClient

_log = logging.getLogger(__name__)

# A connection that is quiet for so long is asked whether it is alive, which has to be answered in the second time. The
# question is SUBSCRIBE again: PING would be one right more.
QUIET_S = 15.0
ANSWER_S = 5.0
# Pauses between attempts double from the first to the second figure, ± 25 %, so that replicas do not come together. One
# that held for longer than the second starts anew.
FIRST_RETRY_S = 0.25
LAST_RETRY_S = 30.0
_JITTER = 0.25
_CANCEL_AGAIN_S = 0.1


class Subscription:
    """Calls `heard` with each message, on the event loop. A Redis that is gone, slow or refuses is asked again.

    Being told is a favour, so nothing here is an error to anybody: an outage is one line in the log, its end another,
    and the breaker does not hear of it. Messages of an outage are lost.

    Args:
        client: whose server it is; the connection is one beyond its bound.
        channel: to listen to.
        heard: gets the bytes of a message, whatever they are. Redis itself ends a connection with more than
            32 MiB unread, unless told otherwise.
        began: is called when the server has confirmed, at first and after each outage.
    """

    def __init__(
        self, client: RedisClient, channel: str, *, heard: Callable[[bytes], None], began: Callable[[], None]
    ) -> None:
        self._client = client
        self._channel = channel
        self._heard = heard
        self._began = began
        self._is_listening = False
        self._is_outage_told = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; returns before anything is known of the server."""
        self._task = asyncio.create_task(self._run(), name=f"subscription {self._channel}")

    async def aclose(self) -> None:
        """Stop listening."""
        # The library loses a cancellation that comes while it connects.
        while self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=_CANCEL_AGAIN_S)

    async def _run(self) -> None:
        retry_s = FIRST_RETRY_S
        while True:
            started = monotonic()
            try:
                await self._listen()
            except Exception as error:  # noqa: BLE001 - whatever the library makes of a broken or foreign server
                self._lost(error)
            if monotonic() - started > LAST_RETRY_S:
                retry_s = FIRST_RETRY_S
            await asyncio.sleep(retry_s * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311 - hides nothing
            retry_s = min(2 * retry_s, LAST_RETRY_S)

    async def _listen(self) -> None:
        """Until the connection ends, which raises."""
        async with asyncio.timeout(ANSWER_S):
            connection = await self._client.spare_connection()
        try:
            async with asyncio.timeout(ANSWER_S):
                await connection.connect()  # type: ignore[no-untyped-call]
                await connection.send_command("SUBSCRIBE", self._channel)
            is_asked = True
            while True:
                message = await connection.read_response(
                    disable_decoding=True, timeout=ANSWER_S if is_asked else QUIET_S
                )
                if message is not None:
                    is_asked = False
                    self._take(message)
                    await asyncio.sleep(0)  # what lies in the buffer is read without a wait, and requests want a turn
                elif is_asked:
                    raise TimeoutError(f"no answer within {ANSWER_S:g} s")
                else:
                    is_asked = True
                    await connection.send_command("SUBSCRIBE", self._channel)
        finally:
            await connection.disconnect(nowait=True)

    def _take(self, message: object) -> None:
        match message:
            case [b"message", bytes(), bytes(content)]:
                self._heard(content)
            case [b"subscribe", *_] if not self._is_listening:
                self._is_listening, self._is_outage_told = True, False
                _log.info("listening to other replicas", extra={"channel": self._channel})
                self._began()

    def _lost(self, error: Exception) -> None:
        self._is_listening = False
        if not self._is_outage_told:
            self._is_outage_told = True
            _log.warning("not listening to other replicas: %s: %s", type(error).__name__, error)
