"""Thousands of bad inputs: the service does not crash or answer 500, and memory and time stay within bounds."""

import resource
import sys
from collections import Counter
from contextlib import suppress
from time import perf_counter, process_time

import httpx
from support.raw_http import RawConnection
from support.service_client import PROBLEM, open_client
from tools.faults.hostile import MIB, Input, every_input, mutated
from tools.faults.outcome import Outcome
from tools.faults.scene import Scene, embed_all, peak_bytes, process_sample, reset_peak

from service.errors import ServiceError
from service.process import configure_image_libraries
from service.sam.images import decode_image

MAX_PIXELS = 52_000_000
# libwebp holds two canvases and gives a copy to Pillow, which makes another copy: 16 bytes per pixel. The rest is two
# copies of the largest body, and memory that the allocator does not return at once.
BOUND_BYTES = 16 * MAX_PIXELS + 256 * MIB
LONGEST_S = 60.0  # for busy machines; the table has the measured time


def measure(scene: Scene, *, quick: bool) -> Outcome:
    """Decode damaged images in this process, and in the full form send all inputs over HTTP."""
    outcome = Outcome("Bad input")
    decode_many(outcome, 400 if quick else 20_000)
    if not quick:
        over_http(scene, outcome)
    return outcome


def over_http(scene: Scene, outcome: Outcome) -> None:
    """Send every input to one service, which has to survive all of them."""
    service = scene.service()
    (image_hash,) = embed_all(service.url, [scene.image()])
    pid = service.process.pid
    idle = process_sample(pid).rss_bytes
    reset_peak(pid)
    kinds: dict[str, list[tuple[int, float]]] = {}
    with open_client(service.url) as client:
        for asked in every_input(image_hash, mutations=80):
            started = perf_counter()
            status = ask(client, asked, outcome)
            kinds.setdefault(asked.kind, []).append((status, perf_counter() - started))
        endless(service.url, outcome)
        outcome.promise(client.get("/livez").status_code == 200, "the service is not alive any more")
    growth = peak_bytes(pid) - idle
    every = [answer for answers in kinds.values() for answer in answers]
    failures = sum(status >= 500 for status, _ in every)
    slowest, kind = max((seconds, kind) for kind, answers in kinds.items() for _, seconds in answers)
    outcome.facts |= {
        "requests": str(len(every)),
        "answers": ", ".join(f"{n} × {s}" for s, n in sorted(Counter(status for status, _ in every).items())),
        "crashes of the service": "0" if service.process.poll() is None else "1",
        "500s": str(failures),
        "peak memory above the idle process": f"{growth / MIB:.0f} MiB (bound {BOUND_BYTES / MIB:.0f})",
        "longest request": f"{slowest:.1f} s ({kind})",
    }
    outcome.promise(not failures, f"{failures} answers of 500 and more")
    outcome.promise(growth < BOUND_BYTES, f"{growth / MIB:.0f} MiB above idle")
    outcome.promise(slowest < LONGEST_S, f"{kind} took {slowest:.1f} s")
    by_kind = {kind: ", ".join(sorted({str(status) for status, _ in answers})) for kind, answers in kinds.items()}
    outcome.facts["answered by kind"] = "; ".join(f"{kind}: {found}" for kind, found in by_kind.items())


def ask(client: httpx.Client, asked: Input, outcome: Outcome) -> int:
    """Send an input and return the status of the response. Errors have to be problem documents."""
    headers = {name.encode(): value.encode("latin-1") for name, value in asked.headers.items()}
    try:
        response = client.post(asked.path, content=asked.body, headers=headers)
    except httpx.TransportError as error:
        outcome.promise(False, f"{asked.kind}: {type(error).__name__}")
        return 599
    if response.status_code >= 400:
        is_problem = response.headers["content-type"] == PROBLEM and response.json()["detail"]
        outcome.promise(is_problem, f"{asked.kind}: {response.status_code} without a problem document")
    return response.status_code


def endless(url: str, outcome: Outcome) -> None:
    """Send an endless chunked body: the service has to refuse it and close the connection."""
    sent = 0
    with RawConnection(url) as connection:
        connection.start("/embed", "Transfer-Encoding: chunked", "Content-Type: image/png")
        with suppress(OSError):
            while sent < 1 << 30:
                connection.send(b"10000\r\n" + bytes(0x10000) + b"\r\n")
                sent += 0x10000
    outcome.facts["chunked body without end: bytes sent until it was closed"] = f"{sent / MIB:.0f} MiB"
    outcome.promise(sent < 1 << 29, f"{sent / MIB:.0f} MiB of an endless body were read")


def decode_many(outcome: Outcome, count: int) -> None:
    """Decode damaged images in this process. Any error except ServiceError would end the experiment."""
    configure_image_libraries()
    found: Counter[str] = Counter()
    longest, started = 0.0, process_time()
    for data in mutated(count, seed=2):
        before = process_time()
        try:
            decode_image(data, max_pixels=MAX_PIXELS)
            found["images"] += 1
        except ServiceError as error:
            found[error.code] += 1
        longest = max(longest, process_time() - before)
    spent = process_time() - started
    answers = ", ".join(f"{number} {what}" for what, number in found.most_common())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    outcome.facts[f"{count} damaged images through the decoder, {spent:.0f} s of CPU"] = (
        f"{answers}; longest {longest * 1000:.0f} ms, at most {peak / MIB:.0f} MiB"
    )
    outcome.promise(longest < LONGEST_S, f"a damaged image took {longest:.1f} s")
