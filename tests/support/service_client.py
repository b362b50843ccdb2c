"""What a client does with the service: embed, segment, read problems, logs and metrics."""

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from support.redis_server import wait_until
from support.service_process import ServiceProcess

from service.errors import ServiceError

PROBLEM = "application/problem+json"
WAIT_S = 60.0


def open_client(url: str, **options: Any) -> httpx.Client:
    """A client of one service, patient enough for a busy machine, deaf to the environment's proxies."""
    return httpx.Client(base_url=url, timeout=WAIT_S, trust_env=False, **options)


def embed(client: httpx.Client, data: bytes) -> str:
    """Embed an image; its hash."""
    response = client.post("/embed", content=data)
    assert response.status_code == 200, response.text
    return str(response.json()["image_hash"])


def segment(client: httpx.Client, image_hash: str, *prompts: dict[str, Any], **options: Any) -> list[list[Any]]:
    """The masks of each prompt; `options` are the further fields of the request."""
    response = client.post("/segment", json={"image_hash": image_hash, "prompts": prompts, **options})
    assert response.status_code == 200, response.text
    return [result["masks"] for result in response.json()["results"]]


def point(x: float, y: float, label: int = 1) -> dict[str, Any]:
    """A prompt of one click."""
    return {"points": [{"x": x, "y": y, "label": label}]}


def assert_problem(response: httpx.Response, error: type[ServiceError]) -> dict[str, Any]:
    """The response says `error` as RFC 9457 asks; its document."""
    document = assert_problem_document(response, error.status, error.code)
    assert document["title"] == error.title
    return document


def assert_problem_document(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The response is a problem of this status and code, with every member that is promised; its document."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == PROBLEM
    document: dict[str, Any] = response.json()
    assert document["code"] == code, document
    assert document["type"] == f"/problems/{code}"
    assert document["status"] == status
    assert document["instance"] == response.headers["x-request-id"]
    assert document["title"]
    assert document["detail"]
    return document


def request_line(service: ServiceProcess, request_id: str) -> dict[str, Any]:
    """The log line of one request, as soon as it is written; there is exactly one."""

    def lines() -> list[dict[str, Any]]:
        return [
            line for line in list(service.log) if line["event"] == "request" and line.get("request_id") == request_id
        ]

    wait_until(lambda: bool(lines()), timeout_s=WAIT_S, what=f"no log line of the request {request_id}")
    (line,) = lines()
    return line


class Scrape:
    """The metrics of a process at one moment."""

    def __init__(self, client: httpx.Client) -> None:
        self.response = client.get("/metrics")
        assert self.response.status_code == 200, self.response.text
        self.families = list(text_string_to_metric_families(self.response.text))

    def value(self, name: str, **labels: str) -> float:
        """The sum of a sample over all label sets that have `labels`; 0 when there is none."""
        return sum(value for found, value in self._samples(name) if labels.items() <= found.items())

    def labels(self, name: str, label: str) -> set[str]:
        """The values that a label takes."""
        return {found[label] for found, _ in self._samples(name)}

    def _samples(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        for family in self.families:
            for sample in family.samples:
                if sample.name == name:
                    yield sample.labels, sample.value


def wait_for_in_flight(client: httpx.Client, route: str, count: int = 1) -> None:
    """Return when the service works on `count` requests of a route."""
    wait_until(
        lambda: Scrape(client).value("edgesam_in_flight", route=route) == count,
        timeout_s=WAIT_S,
        what=f"{route} never had {count} requests in flight",
    )


@contextlib.contextmanager
def standing_still(service: ServiceProcess) -> Iterator[None]:
    """Stop the process (SIGSTOP) for the block: what happens to its connections it then learns all at once."""
    pid = service.process.pid
    service.process.send_signal(signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
    try:
        yield
    finally:
        service.process.send_signal(signal.SIGCONT)
