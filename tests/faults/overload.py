"""Ten times more clicks than a replica can do: what is still answered, how the rest is refused, who gets how much.

The replica has half of the processors, who asks the other half: on shared ones every request that is sent would take a
part of an answer away, and what is measured would be the load generator.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread
from time import perf_counter

import httpx
import numpy as np
from bench.load_generator import Exchange, LoadGenerator
from faults.outcome import Outcome
from faults.scene import Scene, click, embed_all, with_key
from support.service_client import open_client

GREEDY, MODEST = "a greedy key of many characters", "a modest key of many characters"
_CLIENTS = 16
# Of what the machine can do: one key asks for nearly all of the ten times, the other for a little.
_GREEDY_SHARE, _MODEST_SHARE = 9.7, 0.3
_RECOVERY_S = 5.0
_REFUSAL_MS = 10.0
_ASKERS = 2


@dataclass(frozen=True, slots=True)
class Tail:
    """How requests of one kind were answered."""

    answered: int
    refused: int
    other: int
    refused_ms: list[float]

    @classmethod
    def of(cls, trace: list[Exchange]) -> "Tail":
        """Sort a trace."""
        refused = [one.ms for one in trace if one.status in {"503", "429"}]
        answered = sum(one.status == "200" for one in trace)
        return cls(answered, len(refused), len(trace) - answered - len(refused), refused)


def measure(scene: Scene, *, quick: bool) -> Outcome:
    """What one replica can do, then ten times that from two keys, then a look at how soon all is as before."""
    outcome, seconds = Outcome("Overload"), 2.0 if quick else 15.0
    own, others = _halves()
    scene.enter(_on(others))
    prefix = ["taskset", "--cpu-list", ",".join(map(str, own))] if own != others else []
    service = scene.enter(scene.process(prefix=prefix, api_keys=f'["{GREEDY}", "{MODEST}"]'))
    outcome.facts["processors of the service, of those who ask"] = f"{len(own)}, {len(others)}"
    greedy_hash, modest_hash = embed_all(service.url, [scene.picture(), scene.picture()], key=GREEDY)
    greedy = [with_key(click(greedy_hash, number), GREEDY) for number in range(32)]
    modest = [with_key(click(modest_hash, number), MODEST) for number in range(32)]
    with LoadGenerator() as first, LoadGenerator() as second, open_client(service.url) as client:
        per_s = before_per_s = first.closed(service.url, greedy, clients=_CLIENTS, seconds=seconds).per_s
        calm_ms = _one_click_ms(client, modest_hash)
        began = perf_counter()
        first.start_open([service.url], greedy, rate=_GREEDY_SHARE * per_s, seconds=seconds, seed=1)
        second.start_open([service.url], modest, rate=_MODEST_SHARE * per_s, seconds=seconds, seed=2)
        with _asking(service.url, greedy_hash) as refusals:
            loads = [first.wait(), second.wait()]
        ended = perf_counter()
        recovery_s = _recovery_s(client, modest_hash, calm_ms, ended)
        if not quick:  # what the machine can do drifts while others use it as well
            per_s = (before_per_s + first.closed(service.url, greedy, clients=_CLIENTS, seconds=seconds).per_s) / 2
    tails = [Tail.of(load.trace) for load in loads]
    goodput = sum(tail.answered for tail in tails) / (max(ended - began, seconds))
    _judge(outcome, per_s, goodput, tails, refusals, recovery_s, quick=quick)
    return outcome


def _judge(
    outcome: Outcome,
    per_s: float,
    goodput: float,
    tails: list[Tail],
    refusals: list[httpx.Response],
    recovery_s: float,
    *,
    quick: bool,
) -> None:
    greedy, modest = tails
    refused_ms = [*greedy.refused_ms, *modest.refused_ms]
    outcome.facts["clicks a second, sixteen clients in turn, before and after"] = f"{per_s:.0f}"
    outcome.facts["answered a second at ten times that"] = f"{goodput:.0f}, {goodput / per_s:.0%}"
    for name, tail in (("greedy", greedy), ("modest", modest)):
        asked = tail.answered + tail.refused + tail.other
        outcome.facts[f"the {name} key: asked, answered, refused, other"] = (
            f"{asked}, {tail.answered}, {tail.refused}, {tail.other}"
        )
    if refused_ms:
        p50, p99 = np.percentile(refused_ms, [50, 99])
        outcome.facts["a refusal, from when it was due, p50 / p99, ms"] = f"{p50:.1f} / {p99:.1f}"
        outcome.promise(quick or p99 < _REFUSAL_MS, f"one refusal of a hundred took over {p99:.0f} ms")
    outcome.facts["as before after, s"] = f"{recovery_s:.1f}"
    outcome.promise(greedy.refused > 0, "nothing was refused, so nothing was tried")
    outcome.promise(greedy.other == modest.other == 0, "something was neither answered nor refused")
    outcome.promise(
        all("retry-after" in refusal.headers for refusal in refusals), "a refusal does not say when to come again"
    )
    share = modest.answered / max(1, modest.answered + modest.refused + modest.other)
    outcome.promise(share > 0.5, f"the modest key got {share:.0%} of the little it asked for")
    outcome.promise(recovery_s < _RECOVERY_S, f"it took {recovery_s:.1f} s until all was as before")
    if not quick:  # seconds on a shared machine are no measurement, and may end before a refusal is met from close
        outcome.promise(refusals, "no refusal was seen from close")
        outcome.promise(goodput > 0.9 * per_s, f"only {goodput / per_s:.0%} of what it can do was answered")


def _halves() -> tuple[list[int], list[int]]:
    """Processors for the service and for the others; all for both where there is one, or no `taskset`."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(allowed) < 2 or shutil.which("taskset") is None:
        return allowed, allowed
    return allowed[: len(allowed) // 2], allowed[len(allowed) // 2 :]


@contextmanager
def _on(processors: list[int]) -> Iterator[None]:
    """Keep this process and those it starts meanwhile to some processors."""
    if not processors:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class _asking:  # noqa: N801 - reads as what goes on meanwhile
    """Asks with the greedy key all the time, several at once, and keeps what was refused."""

    def __init__(self, url: str, image_hash: str) -> None:
        self._url, self._image_hash = url, image_hash
        self._is_over = Event()
        self._refusals: list[httpx.Response] = []

    def __enter__(self) -> list[httpx.Response]:
        self._threads = [Thread(target=self._ask, daemon=True) for _ in range(_ASKERS)]
        for thread in self._threads:
            thread.start()
        return self._refusals

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(30)

    def _ask(self) -> None:
        with open_client(self._url) as client:
            while not self._is_over.wait(0.1):
                answer = _click(client, self._image_hash, GREEDY)
                if answer.status_code != 200:
                    self._refusals.append(answer)


def _click(client: httpx.Client, image_hash: str, key: str) -> httpx.Response:
    body = {"image_hash": image_hash, "prompts": [{"points": [{"x": 30, "y": 30}]}], "multimask": 1}
    return client.post("/segment", json=body, headers={"X-API-Key": key})


def _one_click_ms(client: httpx.Client, image_hash: str) -> float:
    times = []
    for _ in range(5):
        started = perf_counter()
        assert _click(client, image_hash, MODEST).status_code == 200
        times.append((perf_counter() - started) * 1000.0)
    return float(np.median(times))


def _recovery_s(client: httpx.Client, image_hash: str, calm_ms: float, ended: float) -> float:
    """Until a click is answered and takes at most twice of what it took before."""
    while perf_counter() - ended < 2 * _RECOVERY_S:
        started = perf_counter()
        is_answered = _click(client, image_hash, MODEST).status_code == 200
        if is_answered and (perf_counter() - started) * 1000.0 < 2 * calm_ms:
            break
    return perf_counter() - ended
