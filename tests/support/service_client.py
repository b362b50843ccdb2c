"""Functions of tests that use the service: embed, segment, read problems, logs and metrics."""

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
    """Return an HTTP client with long timeouts for busy machines. It ignores proxies of the environment."""
    return httpx.Client(base_url=url, timeout=WAIT_S, trust_env=False, **options)


def embed(client: httpx.Client, data: bytes) -> str:
    """Embed an image and return its hash."""
    response = client.post("/embed", content=data)
    assert response.status_code == 200, response.text
    return str(response.json()["image_hash"])


def segment(client: httpx.Client, image_hash: str, *prompts: dict[str, Any], **options: Any) -> list[list[Any]]:
    """Segment an image and return the masks of each prompt. `options` are additional fields of the request."""
    response = client.post("/segment", json={"image_hash": image_hash, "prompts": prompts, **options})
    assert response.status_code == 200, response.text
    return [result["masks"] for result in response.json()["results"]]


def point(x: float, y: float, label: int = 1) -> dict[str, Any]:
    """Return a prompt with one point."""
    return {"points": [{"x": x, "y": y, "label": label}]}


def assert_problem(response: httpx.Response, error: type[ServiceError]) -> dict[str, Any]:
    """Assert that a response is the problem of `error`, and return its document."""
    document = assert_problem_document(response, error.status, error.code)
    assert document["title"] == error.title
    return document


def assert_problem_document(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Assert that a response is a problem with this status and code and all members, and return its document."""
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
    """Wait for the only log line of a request, and return it."""

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
        """Return the sum of a sample over all label sets that contain `labels`; 0 if there are none."""
        return sum(value for found, value in self._samples(name) if labels.items() <= found.items())

    def labels(self, name: str, label: str) -> set[str]:
        """Return the values of a label."""
        return {found[label] for found, _ in self._samples(name)}

    def _samples(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        for family in self.families:
            for sample in family.samples:
                if sample.name == name:
                    yield sample.labels, sample.value


def wait_for_in_flight(client: httpx.Client, route: str, count: int = 1) -> None:
    """Wait until `count` requests of a route are in progress."""
    wait_until(
        lambda: Scrape(client).value("edgesam_in_flight", route=route) == count,
        timeout_s=WAIT_S,
        what=f"{route} never had {count} requests in flight",
    )


@contextlib.contextmanager
def standing_still(service: ServiceProcess) -> Iterator[None]:
    """Stop the process (SIGSTOP) during the block, so that it sees all events of its connections at once afterwards."""
    pid = service.process.pid
    service.process.send_signal(signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
    try:
        yield
    finally:
        service.process.send_signal(signal.SIGCONT)
