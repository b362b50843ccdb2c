"""Clicks come first: uploads have threads of their own, which give way."""

import os
import shutil
import threading
from pathlib import Path

import pytest
from support.noise_pictures import noise_file
from support.raw_http import RawConnection
from support.redis_server import wait_until
from support.service_client import embed, open_client, point, segment, wait_for_in_flight
from support.service_process import ServiceProcess

NICE_FIELD = 16  # of /proc/*/task/*/stat behind the name, see proc(5)


def nice_values(pid):
    """How many threads of a process have which nice value."""
    values = {}
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        nice = int(stat.read_text().rpartition(")")[2].split()[NICE_FIELD])
        values[nice] = values.get(nice, 0) + 1
    return values


def test_the_encoder_s_threads_give_way_and_the_decoder_s_do_not(artifact):
    with ServiceProcess({"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_THREADS": "3"}) as service:
        with open_client(service.url) as client:
            image_hash = embed(client, noise_file((40, 30), seed=3))
            segment(client, image_hash, point(5, 5), format="none")

        values = nice_values(service.process.pid)

    # Two of the session's own beside the lane's thread, and the upload pool's.
    assert values[10] >= 4
    assert values[os.getpriority(os.PRIO_PROCESS, 0)] > values[10]


def test_a_click_is_answered_while_uploads_wait(artifact):
    pictures = [noise_file((1500 + number, 1500), seed=number) for number in range(8)]
    with ServiceProcess({"EDGESAM_MODEL_DIR": str(artifact)}) as service, open_client(service.url) as client:
        image_hash = embed(client, noise_file((50, 60), seed=99))
        uploads = [threading.Thread(target=embed, args=(client, data)) for data in pictures]
        for upload in uploads:
            upload.start()

        masks = segment(client, image_hash, point(5, 5), format="none")
        still_waiting = sum(upload.is_alive() for upload in uploads)
        for upload in uploads:
            upload.join()

    assert masks
    assert still_waiting >= 1


def policies(pid):
    """Scheduling policies: whether it is the event loop's thread, and which."""
    return {
        (int(task.name) == pid, os.sched_getscheduler(int(task.name))) for task in Path(f"/proc/{pid}/task").iterdir()
    }


@pytest.mark.skipif(
    not hasattr(os, "SCHED_BATCH") or shutil.which("chrt") is None, reason="Linux alone has this policy"
)
def test_under_a_flood_the_event_loop_waits_for_its_turn(artifact):
    settings = {"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_MAX_SEGMENT_REQUESTS": "1"}
    usual = {(True, os.SCHED_OTHER), (False, os.SCHED_OTHER)}
    # Whatever the tests' own process has been told.
    with (
        ServiceProcess(settings, prefix=["chrt", "--other", "0"]) as service,
        open_client(service.url) as client,
        RawConnection(service.url) as slow,
    ):
        pid = service.process.pid
        assert policies(pid) == usual
        slow.start("/segment", "Content-Length: 100")
        wait_for_in_flight(client, "/segment")

        def is_patient_when_refusing():  # on a busy machine the second may be over before anybody looks
            assert client.post("/segment", content=b"x").status_code == 503
            return (True, os.SCHED_BATCH) in policies(pid)

        wait_until(is_patient_when_refusing, what="the event loop did not become patient")
        embed(client, noise_file((40, 30), seed=4))  # starts threads, which inherit it

        wait_until(lambda: policies(pid) == usual, what="not all threads became as urgent as before")
