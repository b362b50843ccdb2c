"""What is read of files that others put there."""

from pathlib import Path

import pytest

from service.regular_files import read_regular_file


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_folder_in_place_of_a_file_leaves_nothing_open(tmp_path):
    before = open_files()

    for _ in range(20):
        with pytest.raises(OSError, match="not a file"):
            read_regular_file(tmp_path, 10, follows_links=True)

    assert open_files() == before


def test_no_more_is_read_than_tells_that_there_is_more(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"x" * 100)

    assert read_regular_file(file, 10, follows_links=False) == b"x" * 11
