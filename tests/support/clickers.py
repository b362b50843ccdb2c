"""Threads that send prompts without pause, and count their responses."""

import threading
from typing import Self

import httpx
from support.redis_server import wait_until
from support.service_client import open_client, point

ENOUGH_CLICKS = 20
WAIT_S = 120.0


class Clickers:
    """Threads that send prompts through the proxy without pause, each on one image; a context manager.

    A request on a kept connection that closes without a response is repeated once, as browsers do.

    Attributes:
        answers: Number of responses with status 200.
        cut: Number of requests whose connection closed without a response.
        failures: All other responses and errors.
    """

    def __init__(self, url: str, image_hashes: list[str]) -> None:
        self._url = url
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._click, args=(each,)) for each in image_hashes]
        self.answers = 0
        self.cut = 0
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT_S)

    def wait_for_more(self) -> None:
        """Wait for ENOUGH_CLICKS more responses with status 200."""
        wanted = self.answers + ENOUGH_CLICKS
        wait_until(
            lambda: self.answers >= wanted or bool(self.failures), timeout_s=WAIT_S, what="no prompt is answered"
        )

    def _click(self, image_hash: str) -> None:
        with open_client(self._url, headers={"X-Image-Hash": image_hash}) as client:
            while not self._stop.is_set():
                response = self._answer(client, {"image_hash": image_hash, "prompts": [point(270, 210)]})
                if response is not None and response.status_code == 200:
                    self.answers += 1
                elif response is not None:
                    self.failures.append(f"{response.status_code}: {response.text}")

    def _answer(self, client: httpx.Client, body: dict) -> httpx.Response | None:
        for attempt in ("first", "second"):
            try:
                return client.post("/segment", json=body)
            except httpx.RemoteProtocolError as error:
                self.cut += 1
                if attempt == "second":
                    self.failures.append(repr(error))
            except httpx.TransportError as error:
                self.failures.append(repr(error))
                break
        return None
