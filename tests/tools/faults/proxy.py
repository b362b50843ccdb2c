"""A TCP proxy that simulates a bad network: delay, low bandwidth, broken connections and bit errors."""

import asyncio
import threading
from contextlib import suppress
from typing import Self

_PIECE_BYTES = 64 * 1024


class Proxy:
    """A proxy from `port` to another port of this machine; a context manager.

    Attributes may be changed at any time and from any thread. They apply to later data.

    Attributes:
        delay_s: Delay in both directions, in seconds.
        bytes_per_s: Bandwidth of responses on each connection, in bytes per second. 0: no limit.
        cut_after_bytes: Number of response bytes after which a connection is closed. 0: never.
        flips: Whether one bit is flipped in each large piece of a response.
        port: Port of the proxy.
    """

    def __init__(self, target_port: int) -> None:
        self.delay_s = 0.0
        self.bytes_per_s = 0
        self.cut_after_bytes = 0
        self.flips = False
        self.port = 0
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def refuse(self) -> None:
        """Close all connections and refuse new ones."""
        self._run(self._stop())

    def accept(self) -> None:
        """Accept connections again, on the same port."""
        self._run(self._listen())

    def reset(self) -> None:
        """Simulate a good network again."""
        self.delay_s, self.bytes_per_s, self.cut_after_bytes, self.flips = 0.0, 0, 0, False

    def _run(self, coroutine) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        back = None
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
            await asyncio.gather(self._pass(reader, back, is_answer=False), self._pass(there, writer, is_answer=True))
        except (OSError, asyncio.CancelledError):
            pass  # the target refuses connections, or the proxy stops
        finally:
            self._serving.discard(task)
            for one in (writer, back):
                if one is not None:
                    one.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool) -> None:
        passed = 0
        with suppress(OSError):
            while data := await reader.read(_PIECE_BYTES):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if is_answer:
                    if self.bytes_per_s:
                        await asyncio.sleep(len(data) / self.bytes_per_s)
                    if self.flips and len(data) > _PIECE_BYTES // 2:
                        data = data[:1000] + bytes([data[1000] ^ 1]) + data[1001:]
                    passed += len(data)
                    if self.cut_after_bytes and passed > self.cut_after_bytes:
                        break
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
