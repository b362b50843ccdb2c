"""Prompts per second over HTTP: the running service with an execution provider, and clients in a closed loop."""

import json
from collections.abc import Sequence
from pathlib import Path

from support.service_process import ServiceProcess
from tools.bench.connection import Connection, request
from tools.bench.load_generator import LoadGenerator

_PHOTO = Path(__file__).parents[3] / "service" / "web" / "samples" / "dahlia.jpg"
_CALLS = 20


def over_http(provider: str, precision: str, clients: Sequence[int], seconds: float) -> dict[str, float]:
    """Return the values of the benchmark's row: `click.medium_ms`, and `load.per_s.N` for each number of clients.

    Args:
        provider: EDGESAM_PROVIDER.
        precision: EDGESAM_PRECISION.
        clients: Numbers of clients.
        seconds: Duration for each number of clients, in seconds.

    Raises:
        RuntimeError: The service refused a request, or a client got no answer.
    """
    values = {}
    settings = {"EDGESAM_PROVIDER": provider, "EDGESAM_PRECISION": precision}
    with ServiceProcess(settings) as service, Connection(service.url) as connection, LoadGenerator() as generator:
        answer = connection.post("/embed", _PHOTO.read_bytes(), {"Content-Type": "image/jpeg"})
        prompt = {"points": [{"x": 400, "y": 300, "label": 1}]}
        body = {"image_hash": answer.json()["image_hash"], "multimask": 1, "prompts": [prompt]}
        click = request("POST", "/segment", json.dumps(body).encode())
        totals = sorted(connection.ask(click).timings()["total"] for _ in range(_CALLS))
        values["click.medium_ms"] = totals[_CALLS // 2]
        for count in clients:
            load = generator.closed(service.url, [click], clients=count, seconds=seconds)
            if load.refused or load.failed:
                raise RuntimeError(f"{count} clients: {load.refused} refused, {load.failed} failed")
            values[f"load.per_s.{count}"] = load.per_s
    return values
