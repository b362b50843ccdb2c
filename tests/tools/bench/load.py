"""The load generator: a process of its own, since a client that waits for the interpreter would time itself.

Reads jobs from standard input and writes what it measured to standard output, one JSON document a line. A closed loop
has so many clients, each sending its next request when the last is answered. An open loop sends at a fixed rate,
whatever comes back, and a request's latency counts from when it was to be sent: a server that stands still is charged
for everybody who would have come meanwhile. Several addresses are replicas, among which an open loop spreads as a load
balancer does. Only the standard library and uvloop: it starts in a tenth of a second.
"""

import asyncio
import base64
import json
import random
import resource
import sys
from time import perf_counter
from typing import Any, cast

try:
    import uvloop
except ImportError:  # another platform
    uvloop = None

ANSWER_S = 60.0
MOST_CONNECTIONS = 512
# uvicorn closes a connection that was idle for 5 s.
FRESH_S = 3.0
PROBE_EVERY_S, PROBE_S = 0.2, 1.0
LEAST_ARRIVALS = 3


class Channel(asyncio.Protocol):
    """One keep-alive connection; one request at a time."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._length: int | None = None
        self._status = 0
        self.code = ""
        """Of the last answer, if it was a problem document."""
        self._answer: asyncio.Future[int] | None = None
        self._transport: asyncio.Transport | None = None
        self.is_open = True
        self.used_at = perf_counter()

    async def ask(self, data: bytes) -> int:
        """The status of the answer, when it is complete."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        async with asyncio.timeout(ANSWER_S):
            status = await self._answer
        self.used_at = perf_counter()
        return status

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        self._received += data
        if self._length is None:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._received[:end]).lower()
            self._status = int(head[9:12])
            self._length = end + 4 + int(head.split(b"\r\ncontent-length:")[1].split(b"\r\n")[0])
        if len(self._received) >= self._length:
            self.code = _problem_code(self._received) if self._status >= 400 else ""
            self._received.clear()
            self._length = None
            if self._answer is not None and not self._answer.done():
                self._answer.set_result(self._status)

    def connection_lost(self, error: Exception | None) -> None:
        """Called by the loop."""
        self.is_open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionResetError("the server hung up"))


class Generator:
    """One job: who is asked what, how often.

    Args:
        job: `host`, `port`, `requests` (base64 of whole requests, taken in turn), `vary_at` (where 16 bytes of each are
            to differ every time, or null), `seconds` (more, if clients are without an answer then), `warm_s` (not
            counted, at the start), and either `clients` or `rate` (requests a second; `seed` for arrivals that are
            random instead of regular). An open loop takes `others`, further [host, port], and with `is_traced` tells
            each request: when it was due (perf_counter, which all processes of a machine share), ms, status, code.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self._requests = [bytearray(base64.b64decode(text)) for text in job["requests"]]
        self._random = random.Random(job.get("seed") or 0)
        self._ms: list[float] = []
        self._late_ms: list[float] = []
        self._statuses: dict[str, int] = {}
        self._trace: list[tuple[float, float, str, str]] = []
        self._replicas = [Replica(*address) for address in [(job["host"], job["port"]), *job.get("others", ())]]
        self._turn = 0
        self._answers = self._successes = 0  # inside the counted window
        self._counts_from = self._ends_at = 0.0

    async def run(self) -> dict[str, Any]:
        """What was measured: latencies, answers a second, statuses."""
        before = resource.getrusage(resource.RUSAGE_SELF)
        started = perf_counter()
        if "clients" in self._job:
            await self._closed()
        else:
            await self._open()
        used = resource.getrusage(resource.RUSAGE_SELF)
        cpu_s = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
        return {
            "ms": self._ms,
            "late_ms": self._late_ms,
            "statuses": self._statuses,
            "per_s": self._successes / (self._ends_at - self._counts_from),
            "trace": self._trace,
            "cpu_share": cpu_s / (perf_counter() - started),
        }

    async def _closed(self) -> None:
        channels = [await self._connect() for _ in range(self._job["clients"])]
        self._start_clock()
        await asyncio.gather(*(self._client(number, channel) for number, channel in enumerate(channels)))

    async def _client(self, number: int, channel: Channel) -> None:
        while (sent_at := perf_counter()) < self._ends_at or self._answers < self._job["clients"]:
            await self._exchange(channel, number, sent_at)
            if not channel.is_open:
                channel = await self._connect()
        channel.close()

    async def _open(self) -> None:
        for replica in self._replicas:
            replica.idle = [await self._connect(replica) for _ in range(8)]
        probes = [asyncio.create_task(replica.probe()) for replica in self._replicas[1:] and self._replicas]
        self._start_clock()
        tasks: set[asyncio.Task[None]] = set()
        due, number = perf_counter(), 0
        while due < self._ends_at or len(self._late_ms) < LEAST_ARRIVALS:
            if (wait := due - perf_counter()) > 0:
                await asyncio.sleep(wait)
            if due >= self._counts_from:
                self._late_ms.append((perf_counter() - due) * 1000.0)
            tasks.add(asyncio.create_task(self._arrival(number, due)))
            number += 1
            gap = self._random.expovariate(1.0) if self._job.get("seed") else 1.0
            due += gap / self._job["rate"]
        await asyncio.gather(*tasks)
        for probe in probes:
            probe.cancel()
        for replica in self._replicas:
            replica.hang_up()

    async def _arrival(self, number: int, due: float) -> None:
        try:
            replica, channel = await self._reach()
        except (OSError, TimeoutError) as error:
            self._count(type(error).__name__, "", due)
            return
        await self._exchange(channel, number, due)
        if channel.is_open and replica.is_ready and len(replica.idle) < MOST_CONNECTIONS:
            replica.idle.append(channel)
        else:
            channel.close()

    async def _reach(self) -> tuple["Replica", Channel]:
        """A connection to the next replica that is ready; one that takes none is not, until its next probe."""
        for _ in self._replicas:
            ready = [replica for replica in self._replicas if replica.is_ready] or self._replicas
            replica = ready[self._turn % len(ready)]
            self._turn += 1
            if (channel := replica.kept()) is not None:
                return replica, channel
            try:
                return replica, await self._connect(replica)
            except OSError:
                replica.is_ready = len(self._replicas) == 1
        raise ConnectionRefusedError

    async def _exchange(self, channel: Channel, number: int, counts_from: float) -> None:
        try:
            status = str(await channel.ask(self._request(number)))
        except (OSError, TimeoutError) as error:
            status = type(error).__name__
            channel.close()
            channel.is_open = False
        self._count(status, channel.code, counts_from)

    def _count(self, status: str, code: str, counts_from: float) -> None:
        ended = perf_counter()
        if self._job.get("is_traced"):
            self._trace.append((counts_from, (ended - counts_from) * 1000.0, status, code))
        is_short = self._answers < self._job.get("clients", 0)
        if self._counts_from <= ended and (ended < self._ends_at or is_short):
            self._answers += 1
            self._successes += status == "200"
            self._ends_at = max(self._ends_at, ended)
        # A closed loop is asked what it answered in the window, an open one what it made of those who came in it.
        if (ended if "clients" in self._job else counts_from) >= self._counts_from:
            self._statuses[status] = self._statuses.get(status, 0) + 1
            if status == "200":
                self._ms.append((ended - counts_from) * 1000.0)

    def _request(self, number: int) -> bytes:
        data = self._requests[number % len(self._requests)]
        at = self._job.get("vary_at")
        if at is not None:
            # Not from the seeded generator: an image that was sent once must not come again in another job.
            data[at : at + 16] = f"{random.SystemRandom().getrandbits(64):016x}".encode()
        return bytes(data)

    def _start_clock(self) -> None:
        self._counts_from = perf_counter() + self._job["warm_s"]
        self._ends_at = self._counts_from + self._job["seconds"]

    async def _connect(self, replica: "Replica | None" = None) -> Channel:
        replica = replica or self._replicas[0]
        async with asyncio.timeout(ANSWER_S):
            _, channel = await asyncio.get_running_loop().create_connection(Channel, replica.host, replica.port)
        return channel


class Replica:
    """One address and what a load balancer knows of it."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.is_ready = True
        self.idle: list[Channel] = []

    def kept(self) -> Channel | None:
        """An open connection that was used lately."""
        while self.idle:
            last = self.idle.pop()
            if last.is_open and perf_counter() - last.used_at < FRESH_S:
                return last
            last.close()
        return None

    def hang_up(self) -> None:
        """Close what is idle."""
        for channel in self.idle:
            channel.close()
        self.idle.clear()

    async def probe(self) -> None:
        """Ask /readyz again and again."""
        while True:
            await asyncio.sleep(PROBE_EVERY_S)
            self.is_ready = await self._answers()
            if not self.is_ready:
                self.hang_up()

    async def _answers(self) -> bool:
        channel = None
        try:
            async with asyncio.timeout(PROBE_S):
                _, channel = await asyncio.get_running_loop().create_connection(Channel, self.host, self.port)
                return await channel.ask(f"GET /readyz HTTP/1.1\r\nHost: {self.host}\r\n\r\n".encode()) == 200
        except (OSError, TimeoutError):
            return False
        finally:
            if channel is not None:
                channel.close()


def _problem_code(answer: bytearray) -> str:
    _, _, rest = bytes(answer).partition(b'"code":"')
    return rest.partition(b'"')[0].decode() if rest else ""


def main() -> None:
    """Until standard input ends."""
    factory = uvloop.new_event_loop if uvloop is not None else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        for line in sys.stdin:
            result = runner.run(Generator(json.loads(line)).run())
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
