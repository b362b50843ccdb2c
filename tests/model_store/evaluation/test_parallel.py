"""Several processes give the same measurements as one."""

import functools

import pytest
from support.model_store_cli import invoke

from model_store.evaluation.methods import Methods
from model_store.evaluation.options import threads_per_process
from model_store.evaluation.protocol import Protocol, evaluate
from model_store.training.data.annotations import read_annotations


def test_two_processes_measure_the_same_as_one(data, artifact):
    photos = read_annotations(data)
    measure = functools.partial(evaluate, photos, Methods(models=(artifact,), threads=1).open, Protocol(corrections=1))
    reported = []

    alone, together = measure(processes=1), measure(processes=2, on_progress=lambda *counts: reported.append(counts))

    # Compared as text: scores that were not measured are NaN, which equals nothing.
    assert list(map(repr, together)) == list(map(repr, alone))
    assert [measurement.photo for measurement in alone][:: len(alone) // 4] == [0, 1, 2, 3]
    assert reported == [(done, 4) for done in range(5)]


def test_an_error_in_another_process_is_raised(data):
    photos = read_annotations(data)
    photos[2].path.unlink()

    with pytest.raises(FileNotFoundError, match=r"2\.png"):
        evaluate(photos, Methods().open, Protocol(), processes=2)


def test_an_error_in_opening_is_raised_before_any_process_starts(data, tmp_path):
    result = invoke("evaluate", "--data", data, "--checkpoint", tmp_path / "absent.pth", "--processes", 2)

    assert result.exit_code == 1
    assert "absent.pth" in result.output


def test_processes_divide_the_cores(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)

    assert threads_per_process(0, 1) == 0, "one process leaves it to its libraries"
    assert threads_per_process(0, 3) == 2
    assert threads_per_process(0, 16) == 1
    assert threads_per_process(5, 3) == 5
