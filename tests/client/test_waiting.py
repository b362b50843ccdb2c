"""What the clients and the command line say while they wait for the service."""

import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
from support.noise_images import noise_file
from support.redis_server import free_port
from support.service_process import ROOT, ServiceProcess

from service.api.access.keys import digest_of
from service.client import Busy, Unreachable
from service.client.wait_notice import WaitNotice, notice_of
from service.client.waiting import SAID_AFTER_S, Waiting

KEY = "a-key-of-the-slow-team"
WAIT_S = 60.0


def command(*arguments: object) -> subprocess.Popen[str]:
    """Start the command line."""
    words = [sys.executable, "-m", "service.client", *map(str, arguments)]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def limited(artifact, tmp_path_factory):
    """A service with a key that may send one segment request, and another one each eight seconds."""
    keys = tmp_path_factory.mktemp("keys") / "keys.json"
    entry = {
        "name": "slow",
        "sha256": digest_of(KEY.encode()).hex(),
        "roles": ["embed", "segment"],
        "limits": {"segment": {"per_s": 0.125, "burst": 1}},
    }
    keys.write_text(json.dumps([entry]))
    with ServiceProcess({"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_API_KEYS_FILE": str(keys)}) as service:
        yield service.url


def test_the_command_says_that_it_waits_for_a_service_and_goes_on_when_it_starts(artifact, tmp_path):
    photo, port = tmp_path / "photo.png", free_port()
    photo.write_bytes(noise_file((20, 30), seed=911))
    process = command(photo, "--point", "5,5", "--url", f"http://127.0.0.1:{port}", "--retry", WAIT_S)
    assert process.stderr is not None
    first_line = process.stderr.readline()

    with ServiceProcess({"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_PORT": str(port)}):
        said, _ = process.communicate(timeout=WAIT_S)

    assert re.fullmatch(
        rf"waiting: http://127\.0\.0\.1:{port} cannot be reached: .*Connection refused\. "
        r"Next attempt in \d+ s, the last one before \d\d:\d\d:\d\d \(--retry\)\n",
        first_line,
    )
    assert process.returncode == 0
    assert "mask 1*" in said


def test_the_command_says_that_the_rate_limit_delays_it(limited, tmp_path):
    photo = tmp_path / "photo.png"
    photo.write_bytes(noise_file((20, 30), seed=912))

    process = command(photo, "--point", "5,5", "--url", limited, "--api-key", KEY, "--retry", WAIT_S)
    said, notices = process.communicate(timeout=WAIT_S)

    lines = [line for line in notices.splitlines() if line.startswith("waiting: ")]
    assert process.returncode == 0
    assert "mask 1*" in said
    assert any("(429 rate-limited, " in line and "Next attempt in " in line for line in lines)


@pytest.mark.parametrize("retry_s", [0.0, 0.6])
def test_nothing_is_said_in_the_first_second(connect, retry_s):
    said: list[Waiting] = []
    client = connect(f"http://127.0.0.1:{free_port()}", retry_s=retry_s, on_wait=said.append)

    with pytest.raises(Unreachable):
        client.models()

    assert said == []


def test_the_hook_gets_the_reason_and_when_the_client_goes_on_and_gives_up(connect, limited):
    said: list[tuple[float, Waiting]] = []
    client = connect(limited, KEY, retry_s=WAIT_S, on_wait=lambda waiting: said.append((time.monotonic(), waiting)))

    started = time.monotonic()
    client.contains("5" * 64)
    client.contains("5" * 64)

    at, waiting = said[0]
    assert isinstance(waiting.reason, Busy)
    assert waiting.reason.status == 429
    assert at - started >= SAID_AFTER_S
    assert 0 < waiting.next_attempt_s < waiting.gives_up_s <= WAIT_S - SAID_AFTER_S


def test_requests_that_wait_for_the_same_reason_say_so_once(capsys):
    notice = WaitNotice()
    with ThreadPoolExecutor(4) as threads:
        for number in range(8):
            threads.submit(notice, Waiting(Busy(429, "rate-limited", f"The limit {number}."), 2.0, 9.0))
    notice(Waiting(Unreachable("nobody listens."), 2.0, 9.0))

    lines = capsys.readouterr().err.splitlines()

    assert [line.split(" ")[1] for line in lines] == ["The", "nobody"]


def test_a_notice_states_seconds_and_the_time_of_day():
    waiting = Waiting(Unreachable("http://here did not answer in 5.0 s."), 6.2, 75.0)

    assert notice_of(waiting, datetime(2026, 5, 1, 23, 59, 0)) == (  # noqa: DTZ001 - a person's clock
        "http://here did not answer in 5.0 s. Next attempt in 7 s, the last one before 00:00:15 (--retry)"
    )
