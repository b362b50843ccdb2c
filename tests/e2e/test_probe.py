"""`python -m service.probe`, the HEALTHCHECK of the images."""

import os
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
from support.redis_server import free_port

from service.probe import address


def probe(port: int) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "EDGESAM_HOST": "0.0.0.0", "EDGESAM_PORT": str(port)}
    command = [sys.executable, "-m", "service.probe"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_service_that_answers_is_healthy(service_url: str):
    done = probe(urlsplit(service_url).port)

    assert done.returncode == 0, done.stderr


def test_a_port_without_a_service_is_not_healthy_and_the_reason_is_printed():
    done = probe(free_port())

    assert done.returncode == 1
    assert "refused" in done.stderr


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({}, ("127.0.0.1", 8000)),
        ({"EDGESAM_HOST": "0.0.0.0", "EDGESAM_PORT": "9000"}, ("127.0.0.1", 9000)),
        ({"EDGESAM_HOST": "::", "EDGESAM_PORT": ""}, ("::1", 8000)),
        ({"EDGESAM_HOST": "10.1.2.3", "EDGESAM_PORT": "tcp://10.0.0.1:8000"}, ("10.1.2.3", 8000)),
    ],
)
def test_the_probe_uses_the_host_and_port_of_the_settings(environment: dict[str, str], asked: tuple[str, int]):
    assert address(environment) == asked
