"""Overload: ten times more prompts than a replica can process. Measures goodput, refusals, fairness and recovery.

The replica and the load generators have separate processors. On shared ones the load generators would take processor
time from the replica.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import fmean
from threading import Event, Thread
from time import perf_counter
from typing import ClassVar, Self

import httpx
import numpy as np
from support.noise_images import as_file, noise_image
from support.service_client import open_client
from tools.bench.load_generator import Exchange, LoadGenerator
from tools.faults.outcome import Outcome
from tools.faults.scene import SIZE, Scene, click, embed_all, with_key

GREEDY, MODEST = "a greedy key of many characters", "a modest key of many characters"
_CLIENTS = 16
# Request rates of the two keys, relative to the throughput without overload.
_GREEDY_SHARE, _MODEST_SHARE = 9.7, 0.3
_RECOVERY_S = 5.0
_REFUSAL_MS = 10.0
_GOODPUT = 0.9
_TRIALS = 3
_ASKERS = 2


@dataclass(frozen=True, slots=True)
class Tail:
    """Responses to the requests of one key.

    Attributes:
        answered: Number of responses with status 200.
        refused: Number of responses with status 503 or 429.
        other: Number of other responses and errors.
        answered_in_time: Number of responses with status 200 before the end of the overload.
        refused_ms: Times of the refusals, from when the requests were due.
    """

    KINDS: ClassVar = ("answered", "refused", "other")

    answered: int
    refused: int
    other: int
    answered_in_time: int
    refused_ms: list[float]

    @classmethod
    def of(cls, trace: list[Exchange], seconds: float) -> "Tail":
        """Return the counts of a trace of an overload of `seconds`."""
        refused = [one.ms for one in trace if one.status in {"503", "429"}]
        answered = [one.due_s + one.ms / 1000.0 for one in trace if one.status == "200"]
        ended = min((one.due_s for one in trace), default=0.0) + seconds
        other = len(trace) - len(answered) - len(refused)
        return cls(len(answered), len(refused), other, sum(at_s < ended for at_s in answered), refused)


@dataclass(frozen=True, slots=True)
class Trial:
    """Results of one overload.

    Attributes:
        per_s: Prompts per second without overload, measured before and after.
        goodput: Prompts per second that were answered during the overload.
        greedy: Responses to the key with most requests.
        modest: Responses to the key with few requests.
        recovery_s: Time after the overload until responses were as fast as before.
    """

    per_s: float
    goodput: float
    greedy: Tail
    modest: Tail
    recovery_s: float

    @property
    def share(self) -> float:
        """Goodput, relative to the throughput without overload."""
        return self.goodput / self.per_s


def measure(scene: Scene, *, quick: bool) -> Outcome:
    """Measure the throughput of a replica and overloads by two keys alternately."""
    outcome, seconds = Outcome("Overload"), 2.0 if quick else 15.0
    own, others = _processor_split()
    scene.enter(_on(others))
    prefix = ["taskset", "--cpu-list", ",".join(map(str, own))] if own != others else []
    service = scene.enter(scene.process(prefix=prefix, api_keys=f'["{GREEDY}", "{MODEST}"]'))
    outcome.facts["processors of the service, of the clients"] = f"{len(own)}, {len(others)}"
    with _Load(service.url) as load:
        # The throughput of a shared machine drifts, so the reference is the mean of measurements before and after.
        throughputs = [load.throughput(seconds)]
        trials, refusals = [], []
        for _ in range(1 if quick else _TRIALS):
            loads, refused_now, goodput, recovery_s = load.overload(throughputs[-1], seconds)
            refusals += refused_now
            throughputs += [] if quick else [load.throughput(seconds)]
            trials.append(Trial(fmean(throughputs[-2:]), goodput, *loads, recovery_s))
    _judge(outcome, trials, refusals, quick=quick)
    return outcome


class _Load:
    """Prompts of two API keys on one replica."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._hashes = embed_all(url, [as_file(noise_image(SIZE, seed), "JPEG") for seed in (1, 2)], key=GREEDY)
        self._greedy, self._modest = (
            [with_key(click(image_hash, number), key) for number in range(32)]
            for image_hash, key in zip(self._hashes, (GREEDY, MODEST), strict=True)
        )
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._first, self._second = (self._stack.enter_context(LoadGenerator()) for _ in range(2))
        self._client = self._stack.enter_context(open_client(self._url))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def throughput(self, seconds: float) -> float:
        """Return the prompts per second of a closed loop."""
        return self._first.closed(self._url, self._greedy, clients=_CLIENTS, seconds=seconds).per_s

    def overload(self, per_s: float, seconds: float) -> tuple[tuple[Tail, Tail], list[httpx.Response], float, float]:
        """Overload the replica.

        Args:
            per_s: Throughput without overload, in prompts per second.
            seconds: Duration of the overload.

        Returns:
            Responses of the two keys, some refusals, goodput in prompts per second, and recovery time in seconds.
        """
        calm_ms = _one_click_ms(self._client, self._hashes[1])
        self._first.start_open([self._url], self._greedy, rate=_GREEDY_SHARE * per_s, seconds=seconds, seed=1)
        self._second.start_open([self._url], self._modest, rate=_MODEST_SHARE * per_s, seconds=seconds, seed=2)
        with _asking(self._url, self._hashes[0]) as refusals:
            greedy, modest = (Tail.of(load.wait().trace, seconds) for load in (self._first, self._second))
        recovery_s = _recovery_s(self._client, self._hashes[1], calm_ms, perf_counter())
        goodput = (greedy.answered_in_time + modest.answered_in_time) / seconds
        return (greedy, modest), refusals, goodput, recovery_s


def _judge(outcome: Outcome, trials: list[Trial], refusals: list[httpx.Response], *, quick: bool) -> None:
    trial = sorted(trials, key=lambda one: one.share)[len(trials) // 2]
    shares = ", ".join(f"{one.share:.0%}" for one in trials)
    outcome.facts["clicks per second, sixteen clients in a closed loop"] = f"{trial.per_s:.0f}"
    outcome.facts["answered per second at ten times that rate"] = f"{trial.goodput:.0f} ({shares} of it; median)"
    for name, tails in (("greedy", [one.greedy for one in trials]), ("modest", [one.modest for one in trials])):
        answered, refused, other = (sum(getattr(tail, kind) for tail in tails) for kind in Tail.KINDS)
        total = answered + refused + other
        outcome.facts[f"the {name} key: asked, answered, refused, other"] = f"{total}, {answered}, {refused}, {other}"
        outcome.promise(other == 0, f"of the {name} key {other} were neither answered nor refused")
        if name == "greedy":
            outcome.promise(refused > 0, "nothing was refused, so nothing was tested")
        else:
            share = answered / max(1, total)
            outcome.promise(share > 0.5, f"only {share:.0%} of the modest key's few requests were answered")
    refused_ms = [ms for one in trials for ms in (*one.greedy.refused_ms, *one.modest.refused_ms)]
    if refused_ms:
        p50, p99 = np.percentile(refused_ms, [50, 99])
        outcome.facts["refusals, measured from when the request was due, p50 / p99, ms"] = f"{p50:.1f} / {p99:.1f}"
        outcome.promise(quick or p99 < _REFUSAL_MS, f"one refusal of a hundred took over {p99:.0f} ms")
    recovery_s = max(one.recovery_s for one in trials)
    outcome.facts["recovery after the overload, s"] = f"{recovery_s:.1f}"
    outcome.promise(recovery_s < _RECOVERY_S, f"recovery took {recovery_s:.1f} s")
    outcome.promise(all("retry-after" in refusal.headers for refusal in refusals), "a refusal has no Retry-After")
    if not quick:  # the quick form is too short to measure, and may end before `_asking` is refused
        outcome.promise(refusals, "no refusal was recorded")
        outcome.promise(trial.share >= _GOODPUT, f"only {trial.share:.0%} of the throughput was answered")


def _processor_split() -> tuple[list[int], list[int]]:
    """Return the processors of the service and of the load generators, or all for both without `taskset`."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(allowed) < 2 or shutil.which("taskset") is None:
        return allowed, allowed
    return allowed[: len(allowed) // 2], allowed[len(allowed) // 2 :]


@contextmanager
def _on(processors: list[int]) -> Iterator[None]:
    """Limit this process, and processes that it starts meanwhile, to some processors."""
    if not processors:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class _asking:  # noqa: N801 - used as `with _asking(...)`
    """Threads that send prompts with the greedy key and keep the refusals; a context manager."""

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
            while not self._is_over.wait(0.5):
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
    """Wait until a prompt is answered within twice its time without load, and return the time since `ended`."""
    while perf_counter() - ended < 2 * _RECOVERY_S:
        started = perf_counter()
        is_answered = _click(client, image_hash, MODEST).status_code == 200
        if is_answered and (perf_counter() - started) * 1000.0 < 2 * calm_ms:
            break
    return perf_counter() - ended
