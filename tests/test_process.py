"""What the process changes about itself, and the processors it may use by affinity and cgroup quota."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from service.process import available_cpus, drop_service_links, prepare_environment, raise_file_limit

ROOT = Path(__file__).parent.parent
ALL = len(os.sched_getaffinity(0))


@pytest.fixture
def one_processor():
    """Run on a single processor, as under `taskset`."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


def write_v2(folder, limit):
    (folder / "cpu.max").write_text(f"{limit}\n")


def write_v1(folder, quota_us, period_us=100000):
    (folder / "cpu").mkdir()
    (folder / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota_us}\n")
    (folder / "cpu" / "cpu.cfs_period_us").write_text(f"{period_us}\n")


def test_without_a_cgroup_the_affinity_counts(tmp_path):
    assert available_cpus(tmp_path) == ALL


@pytest.mark.usefixtures("one_processor")
def test_a_process_bound_to_one_processor_has_one(tmp_path):
    write_v2(tmp_path, "800000 100000")

    assert available_cpus(tmp_path) == 1


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("max 100000", ALL),
        ("100000 100000", 1),
        ("199999 100000", 1),  # a second thread would be throttled half of the time
        ("50000 100000", 1),  # half a processor still needs a thread
        ("400000 200000", min(2, ALL)),
        ("6400000 100000", ALL),  # more than there are
        ("nonsense", ALL),
        ("", ALL),
    ],
)
def test_the_quota_of_a_new_cgroup_is_rounded_down(tmp_path, limit, expected):
    write_v2(tmp_path, limit)

    assert available_cpus(tmp_path) == expected


@pytest.mark.parametrize(
    ("quota_us", "expected"), [(-1, ALL), (100000, 1), (150000, 1), (50000, 1), (6400000, ALL), ("", ALL)]
)
def test_the_quota_of_an_old_cgroup_is_rounded_down(tmp_path, quota_us, expected):
    write_v1(tmp_path, quota_us)

    assert available_cpus(tmp_path) == expected


def test_an_old_quota_without_a_period_is_no_quota(tmp_path):
    write_v1(tmp_path, 100000, period_us=0)

    assert available_cpus(tmp_path) == ALL


def test_libraries_get_their_variables_and_those_of_the_operator_stay():
    environment = {"OMP_NUM_THREADS": "3"}

    prepare_environment(environment)

    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["OPENBLAS_NUM_THREADS"] == "1"
    assert environment["ORT_DISABLE_TELEMETRY"] == "1"


def test_variables_of_kubernetes_services_are_removed_and_settings_among_them_named():
    environment = {
        "EDGESAM_PORT": "tcp://10.0.0.1:8000",
        "EDGESAM_SERVICE_HOST": "10.0.0.1",
        "EDGESAM_METRICS_PORT": "9090",
        "HOME": "/tmp",
    }

    named = drop_service_links(environment, {"EDGESAM_PORT", "EDGESAM_METRICS_PORT"})

    assert named == ["EDGESAM_PORT"]
    assert environment == {"EDGESAM_METRICS_PORT": "9090", "HOME": "/tmp"}


@pytest.fixture
def low_file_limit():
    """A soft limit of 256 open files, as shells have; the hard limit stays."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("low_file_limit")
def test_the_soft_limit_of_open_files_is_raised_as_far_as_connections_need():
    assert raise_file_limit(500) == 500
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 564


def test_connections_are_as_many_as_the_hard_limit_of_open_files_allows():
    program = """
import resource
from service.process import raise_file_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))
print(raise_file_limit(16384), resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)

    assert done.stdout.split(maxsplit=1) == ["136", "(200, 200)\n"]


IMAGE_LIBRARIES = """
import io
import cv2
from PIL import AvifImagePlugin, Image
from service.process import configure_image_libraries
from service.sam.images import decode_image
configure_image_libraries()
buffer = io.BytesIO()
Image.effect_noise((64, 64), 50).save(buffer, "TIFF", compression="tiff_lzw")
damaged = bytearray(buffer.getvalue())
damaged[40:2000] = bytes(1960)
try:
    decode_image(bytes(damaged), max_pixels=10_000)
except Exception as error:
    print(type(error).__name__)
print(cv2.getNumThreads(), AvifImagePlugin.DEFAULT_MAX_THREADS, Image.MAX_IMAGE_PIXELS)
"""


def test_image_libraries_use_one_thread_and_a_damaged_image_prints_nothing():
    done = subprocess.run([sys.executable, "-c", IMAGE_LIBRARIES], capture_output=True, text=True, check=True, cwd=ROOT)

    assert done.stdout.split() == ["UndecodableImage", "1", "1", "None"]
    assert done.stderr == ""
