"""The load generator: a separate process, because in the process of the benchmark it would wait for the interpreter.

It reads jobs from standard input and writes results to standard output, one JSON document per line. In a closed loop
each client sends its next request after the last response. An open loop sends at a fixed rate, independent of
responses. There latency counts from the time at which a request was due, so that a server that stops is charged for all
requests that were due meanwhile. An open loop distributes requests over several replicas as a load balancer does. The
program uses only the standard library and uvloop, so that it starts in a tenth of a second.
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
    """A keep-alive connection for one request at a time."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._length: int | None = None
        self._status = 0
        self.code = ""
        """Problem code of the last response, or empty."""
        self.timings = ""
        """Header Server-Timing of the last response, or empty."""
        self._answer: asyncio.Future[int] | None = None
        self._transport: asyncio.Transport | None = None
        self.is_open = True
        self.used_at = perf_counter()

    async def ask(self, data: bytes) -> int:
        """Send a request, wait for the complete response and return its status."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        async with asyncio.timeout(ANSWER_S):
            status = await self._answer
        self.used_at = perf_counter()
        return status

    def close(self) -> None:
        """Close the connection."""
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
            self.timings = head.partition(b"\r\nserver-timing:")[2].partition(b"\r\n")[0].decode("latin-1").strip()
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
            self._answer.set_exception(error or ConnectionResetError("the server closed the connection"))


class Generator:
    """One job.

    Args:
        job: Description of the job. `host`, `port`: address. `requests`: base64 of whole requests, sent cyclically.
            `vary_at`: offset of 16 bytes that differ in every request, or null. `seconds`: measured time, longer if
            clients have no response then. `warm_s`: time before it that is not measured. `clients`: number of clients
            of a closed loop. `rate`: requests per second of an open loop. `seed`: seed of random arrivals, or null for
            regular ones. `others`: further [host, port] of an open loop. `is_traced`: whether the result has each
            request with its due time (perf_counter, equal in all processes of a machine), milliseconds, status,
            code and header Server-Timing.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self._requests = [bytearray(base64.b64decode(text)) for text in job["requests"]]
        self._random = random.Random(job.get("seed") or 0)
        self._ms: list[float] = []
        self._late_ms: list[float] = []
        self._statuses: dict[str, int] = {}
        self._trace: list[tuple[float, float, str, str, str]] = []
        self._replicas = [Replica(*address) for address in [(job["host"], job["port"]), *job.get("others", ())]]
        self._next = 0
        self._answers = self._successes = 0  # inside the counted window
        self._counts_from = self._ends_at = 0.0

    async def run(self) -> dict[str, Any]:
        """Run the job and return latencies, responses per second and statuses."""
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
            replica.close_idle()

    async def _arrival(self, number: int, due: float) -> None:
        try:
            replica, channel = await self._reach()
        except (OSError, TimeoutError) as error:
            self._count(type(error).__name__, "", "", due)
            return
        await self._exchange(channel, number, due)
        if channel.is_open and replica.is_ready and len(replica.idle) < MOST_CONNECTIONS:
            replica.idle.append(channel)
        else:
            channel.close()

    async def _reach(self) -> tuple["Replica", Channel]:
        """Return a connection to the next ready replica. A replica that refuses it counts as not ready."""
        for _ in self._replicas:
            ready = [replica for replica in self._replicas if replica.is_ready] or self._replicas
            replica = ready[self._next % len(ready)]
            self._next += 1
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
        self._count(status, channel.code, channel.timings, counts_from)

    def _count(self, status: str, code: str, timings: str, counts_from: float) -> None:
        ended = perf_counter()
        is_short = self._answers < self._job.get("clients", 0)
        if self._counts_from <= ended and (ended < self._ends_at or is_short):
            self._answers += 1
            self._successes += status == "200"
            self._ends_at = max(self._ends_at, ended)
        # A closed loop counts responses in the measured time, an open loop requests that were due in it.
        if (ended if "clients" in self._job else counts_from) >= self._counts_from:
            self._statuses[status] = self._statuses.get(status, 0) + 1
            if self._job.get("is_traced"):
                self._trace.append((counts_from, (ended - counts_from) * 1000.0, status, code, timings))
            if status == "200":
                self._ms.append((ended - counts_from) * 1000.0)

    def _request(self, number: int) -> bytes:
        data = self._requests[number % len(self._requests)]
        at = self._job.get("vary_at")
        if at is not None:
            # Not from the seeded generator: no other job may send the same image again.
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
    """The address of a replica, its readiness and its idle connections."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.is_ready = True
        self.idle: list[Channel] = []

    def kept(self) -> Channel | None:
        """Return an open connection that was used recently."""
        while self.idle:
            last = self.idle.pop()
            if last.is_open and perf_counter() - last.used_at < FRESH_S:
                return last
            last.close()
        return None

    def close_idle(self) -> None:
        """Close all idle connections."""
        for channel in self.idle:
            channel.close()
        self.idle.clear()

    async def probe(self) -> None:
        """Probe /readyz periodically."""
        while True:
            await asyncio.sleep(PROBE_EVERY_S)
            self.is_ready = await self._answers()
            if not self.is_ready:
                self.close_idle()

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
    """Run jobs until standard input ends."""
    factory = uvloop.new_event_loop if uvloop is not None else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        for line in sys.stdin:
            result = runner.run(Generator(json.loads(line)).run())
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
