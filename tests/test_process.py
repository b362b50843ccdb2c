"""The processors this process may use: affinity, and the quota of its cgroup, old or new."""

import os

import pytest

from service.process import available_cpus

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
