"""SIGTERM and SIGINT: accepted requests are answered, /readyz fails before the port closes, and the stop is clean."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
from support.noise_images import noise_file
from support.raw_http import RawConnection
from support.redis_server import wait_until
from support.service_client import assert_problem, embed, open_client, point, request_line, wait_for_in_flight
from support.service_process import ROOT, ServiceProcess

from service.errors import NotReady

WAIT_S = 60


def started(artifact, **settings):
    """Return a process that waits up to 60 s for requests in progress."""
    return ServiceProcess(
        {"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_GRACEFUL_TIMEOUT_S": "60"}
        | {f"EDGESAM_{name}": value for name, value in settings.items()}
    )


def events(service):
    """Return the events of the log, in order."""
    return [line["event"] for line in service.log]


def listens_to(number, pid):
    """Return whether a process has a handler of its own for a signal."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (caught,) = [int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:")]
    return bool(caught >> (number - 1) & 1)


def test_requests_in_progress_are_answered_after_the_signal(artifact):
    images = [noise_file((60, 60 + i), seed=90) for i in range(4)]
    with started(artifact) as service, open_client(service.url) as client:
        connections = [RawConnection(service.url) for _ in images]
        for connection, data in zip(connections, images, strict=True):
            connection.start("/embed", f"Content-Length: {len(data)}")
            connection.send(data[:100])
        wait_for_in_flight(client, "/embed", len(images))

        service.terminate()
        service.wait_for("Shutting down")
        for connection, data in zip(connections, images, strict=True):
            connection.send(data[100:])
        responses = [connection.response() for connection in connections]
        for connection in connections:
            connection.close()
        service.process.wait(WAIT_S)

    assert [response.status_code for response in responses] == [200] * len(images)
    assert service.process.returncode == 0
    assert "Application shutdown complete." in events(service)
    assert [line["signal"] for line in service.log if line["event"] == "stopping"] == ["SIGTERM"]
    assert not [line for line in service.log if line["level"] == "error"]


def test_a_request_that_outlasts_the_graceful_timeout_is_answered_with_a_problem(artifact):
    with started(artifact, GRACEFUL_TIMEOUT_S="1") as service, open_client(service.url) as client:
        with RawConnection(service.url) as stalling:
            stalling.start("/embed", "Content-Length: 1000", "X-Request-ID: stalling")
            wait_for_in_flight(client, "/embed")
            service.terminate()

            response = stalling.response()
        service.process.wait(WAIT_S)
        line = request_line(service, "stalling")

    assert_problem(response, NotReady)
    assert int(response.headers["retry-after"]) >= 1
    assert (line["status"], line["problem"]) == (503, "not-ready")
    assert "Application shutdown complete." in events(service)
    assert [line["event"] for line in service.log if line["level"] == "error"] == [
        "Cancel 1 running task(s), timeout graceful shutdown exceeded"
    ]
    assert service.process.returncode == 0


def test_after_the_signal_new_connections_are_refused(artifact):
    with started(artifact) as service:
        service.terminate()
        service.process.wait(WAIT_S)

        with open_client(service.url) as client, pytest.raises(httpx.ConnectError):
            client.get("/livez")


def test_while_draining_readyz_fails_and_requests_are_answered(artifact):
    with started(artifact, DRAIN_S="300") as service, open_client(service.url) as client:
        image_hash = embed(client, noise_file((50, 50), seed=91))
        service.terminate()
        service.wait_for("draining")

        ready = client.get("/readyz")
        live = client.get("/livez")
        segmented = client.post("/segment", json={"image_hash": image_hash, "prompts": [point(1, 1)]})
        embedded = client.post("/embed", content=noise_file((51, 51), seed=91))
        service.terminate()  # the second one stops at once
        service.process.wait(WAIT_S)

    assert_problem(ready, NotReady)
    assert int(ready.headers["retry-after"]) >= 1
    assert [live.status_code, segmented.status_code, embedded.status_code] == [200, 200, 200]
    assert {one.headers["connection"] for one in (ready, live, segmented, embedded)} == {"close"}
    assert service.process.returncode == 0


def test_a_failed_readiness_probe_is_no_rejected_request(artifact):
    with started(artifact, DRAIN_S="300") as service, open_client(service.url) as client:
        service.terminate()
        service.wait_for("draining")

        probe = client.get("/readyz")
        metrics = client.get("/metrics").text
        service.terminate()

    assert probe.status_code == 503
    assert 'edgesam_rejected_total{reason="not-ready"}' not in metrics


def test_no_request_fails_for_clients_that_follow_readiness(artifact):
    statuses = []

    def click_until_not_ready(url, image_hash):
        while True:
            with open_client(url) as client:
                if client.get("/readyz").status_code == 503:
                    return
                body = {"image_hash": image_hash, "prompts": [point(5, 5)]}
                statuses.append(client.post("/segment", json=body).status_code)
            is_loaded.set()

    with started(artifact, DRAIN_S="300") as service, open_client(service.url) as client:
        image_hash = embed(client, noise_file((52, 52), seed=92))
        is_loaded = threading.Event()
        threads = [threading.Thread(target=click_until_not_ready, args=(service.url, image_hash)) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert is_loaded.wait(WAIT_S)

        service.terminate()
        for thread in threads:
            thread.join(WAIT_S)
        service.terminate()
        service.process.wait(WAIT_S)

    assert not any(thread.is_alive() for thread in threads)
    assert statuses
    assert set(statuses) == {200}
    assert service.process.returncode == 0


def test_draining_ends_by_itself(artifact):
    with started(artifact, DRAIN_S="0.5") as service:
        service.terminate()
        service.process.wait(WAIT_S)

    happened = events(service)
    assert [line["signal"] for line in service.log if line["event"] == "draining"] == ["SIGTERM"]
    wanted = ["draining", "Shutting down", "Application shutdown complete."]
    assert [event for event in happened if event in wanted] == wanted
    assert service.process.returncode == 0


def test_an_idle_connection_does_not_delay_the_end(artifact):
    with started(artifact) as service, open_client(service.url) as client:
        client.get("/livez")  # the connection stays open
        with RawConnection(service.url) as silent:
            silent.send(b"POST /embed HT")

            service.terminate()
            service.process.wait(WAIT_S)

    assert service.process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_start_ends_the_process_at_once(artifact, number):
    environment = {**os.environ, "EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_PORT": "0"}
    command = [sys.executable, "-m", "service"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        wait_until(lambda: listens_to(signal.SIGTERM, process.pid), timeout_s=WAIT_S)
        process.send_signal(number)
        written, _ = process.communicate(timeout=WAIT_S)

    assert process.returncode == 0
    assert b"Traceback" not in written
    assert b"listening" not in written


def test_an_interruption_from_the_keyboard_is_a_clean_stop(artifact):
    with started(artifact) as service:
        service.process.send_signal(signal.SIGINT)
        service.process.wait(WAIT_S)

    assert service.process.returncode == 0
    assert [line["signal"] for line in service.log if line["event"] == "stopping"] == ["SIGINT"]
    assert "Application shutdown complete." in events(service)


def test_a_second_interruption_forces_the_stop_and_ends_with_1(artifact):
    with started(artifact) as service, open_client(service.url) as client, RawConnection(service.url) as stalling:
        stalling.start("/embed", "Content-Length: 1000")
        wait_for_in_flight(client, "/embed")
        service.process.send_signal(signal.SIGINT)
        service.wait_for("Shutting down")
        service.process.send_signal(signal.SIGINT)
        service.process.wait(WAIT_S)

    assert service.process.returncode == 1
