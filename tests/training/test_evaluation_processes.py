"""Several processes measure photos as one does."""

import functools

import pytest
from training.command_line import invoke

from model_store.evaluation.methods import Methods
from model_store.evaluation.options import threads_each
from model_store.evaluation.protocol import Protocol, evaluate
from model_store.training.data.annotations import read_annotations


def test_two_processes_find_what_one_finds(data, artifact):
    photos = read_annotations(data)
    measure = functools.partial(evaluate, photos, Methods(models=(artifact,), threads=1).open, Protocol(corrections=1))
    told = []

    alone, together = measure(processes=1), measure(processes=2, progress=lambda *counts: told.append(counts))

    # Compared as text: scores that were not measured are NaN, which equals nothing.
    assert list(map(repr, together)) == list(map(repr, alone))
    assert [finding.photo for finding in alone][:: len(alone) // 4] == [0, 1, 2, 3]
    assert told == [(done, 4) for done in range(5)]


def test_what_fails_in_another_process_is_said(data):
    photos = read_annotations(data)
    photos[2].path.unlink()

    with pytest.raises(FileNotFoundError, match=r"2\.png"):
        evaluate(photos, Methods().open, Protocol(), processes=2)


def test_what_cannot_be_opened_is_said_before_any_process_starts(data, tmp_path):
    result = invoke("evaluate", "--data", data, "--checkpoint", tmp_path / "absent.pth", "--processes", 2)

    assert result.exit_code == 1
    assert "absent.pth" in result.output


def test_processes_share_the_cores(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)

    assert threads_each(0, 1) == 0, "one process leaves it to its libraries"
    assert threads_each(0, 3) == 2
    assert threads_each(0, 16) == 1
    assert threads_each(5, 3) == 5
