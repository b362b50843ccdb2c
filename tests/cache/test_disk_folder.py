"""The folder of the disk tier: files by key, bounded, shared by processes, and whole or absent."""

import contextlib
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from service.cache.disk.file_format import CorruptFile
from service.cache.disk.folder import EmbeddingFolder
from service.cache.disk.names import ImageFiles, file_name
from service.sam.embedding import embedding_key, image_hash

VALUE = bytes(range(256)) * 4096  # 1 MiB
NOBODY = 65534


def key_of(name, *, variant="", model="0123456789abcdef", namespace=""):
    return embedding_key(image_hash(name.encode()) + variant, model, "float16", namespace)


@pytest.fixture
def open_folder(tmp_path):
    def open_(max_bytes=64 << 20, **options):
        folder = EmbeddingFolder(tmp_path / "embeddings", max_bytes, **options)
        folder.create()
        return folder

    return open_


def path_of(folder, key):
    (path,) = folder.path.glob(f"??/{file_name(key)}")
    return path


def value_of(folder, key):
    found = folder.read(key)
    return None if found is None else found[1]


def test_a_value_is_read_by_another_process_with_the_start_of_its_work(open_folder):
    open_folder().write(key_of("a"), VALUE, 1234)

    header, value = open_folder().read(key_of("a"))

    assert (header.began_at_ms, value) == (1234, VALUE)


def test_an_absent_value_is_none(open_folder):
    folder = open_folder()

    assert folder.read(key_of("a")) is None
    assert folder.read_start(key_of("a"), 10) is None
    assert folder.begun_at_ms(file_name(key_of("a"))) is None


def test_only_the_own_user_may_read_the_files(open_folder):
    folder = open_folder()
    folder.write(key_of("a"), VALUE, 0)
    path = path_of(folder, key_of("a"))

    modes = [stat.S_IMODE(each.stat().st_mode) for each in (folder.path, path.parent, path)]

    assert modes == [0o700, 0o700, 0o600]


def test_no_text_of_a_client_is_part_of_a_path(open_folder):
    folder = open_folder()
    key = key_of("a", variant="~levels=full", namespace="team")
    folder.write(key, VALUE, 0)

    relative = str(path_of(folder, key).relative_to(folder.path))

    assert "team" not in relative
    assert "levels" not in relative
    assert image_hash(b"a") not in relative


def test_the_least_recently_used_file_is_evicted(open_folder):
    evicted = []
    folder = open_folder(3 * len(VALUE) + 4096, on_evicted=lambda: evicted.append(1))
    for name in "abc":
        folder.write(key_of(name), VALUE, 0)
    folder.read(key_of("a"))

    folder.write(key_of("d"), VALUE, 0)

    assert [value_of(folder, key_of(name)) is not None for name in "abcd"] == [True, False, True, True]
    assert len(evicted) == 1


def test_the_order_of_use_outlives_the_process_and_a_clock_that_is_set_back(open_folder, monkeypatch):
    folder = open_folder()
    for name in "abc":
        folder.write(key_of(name), VALUE, 0)
    monkeypatch.setattr("service.cache.disk.known_files.MARK_EVERY_S", 0.0)
    monkeypatch.setattr("time.time_ns", lambda: 10**18)  # in 2001
    folder.read(key_of("a"))
    folder.write(key_of("d"), VALUE, 0)

    later = open_folder(2 * len(VALUE) + 4096)
    later.scan()

    assert [value_of(later, key_of(name)) is not None for name in "abcd"] == [True, False, False, True]


def test_a_file_that_another_process_uses_is_not_evicted(open_folder, monkeypatch):
    monkeypatch.setattr("service.cache.disk.known_files.MARK_EVERY_S", 0.0)
    folder, other = open_folder(2 * len(VALUE) + 4096), open_folder()
    for name in "ab":
        folder.write(key_of(name), VALUE, 0)
    other.scan()
    other.read(key_of("a"))

    folder.write(key_of("c"), VALUE, 0)

    assert [value_of(other, key_of(name)) is not None for name in "abc"] == [True, False, True]


def test_a_scan_counts_the_files_of_other_processes(open_folder):
    folder, other = open_folder(), open_folder()
    folder.write(key_of("a"), VALUE, 0)
    other.write(key_of("b"), VALUE, 0)
    other.remove(file_name(key_of("a")))

    folder.scan()

    assert folder.names() == [file_name(key_of("b"))]
    assert folder.held_bytes == path_of(folder, key_of("b")).stat().st_size


def test_the_number_of_files_is_bounded(open_folder):
    folder = open_folder(max_files=2)

    for name in "abc":
        folder.write(key_of(name), b"small", 0)

    assert folder.count == 2
    assert value_of(folder, key_of("a")) is None


def test_a_value_larger_than_the_folder_is_not_stored(open_folder):
    folder = open_folder(len(VALUE))
    folder.write(key_of("a"), b"small", 0)

    assert folder.write(key_of("b"), VALUE, 0) is False
    assert value_of(folder, key_of("a")) == b"small"


def test_a_deletion_removes_all_variants_and_models_of_an_image_in_its_namespace_alone(open_folder):
    folder = open_folder()
    deleted = [key_of("a"), key_of("a", variant="~levels=full"), key_of("a", model="fedcba9876543210")]
    kept = [key_of("b"), key_of("a", namespace="team")]
    for key in (*deleted, *kept):
        folder.write(key, b"value", 0)

    assert folder.remove_image(ImageFiles.deleted_by(key_of("a"))) == len(deleted)

    assert [value_of(folder, key) for key in deleted] == [None] * len(deleted)
    assert [value_of(folder, key) for key in kept] == [b"value"] * len(kept)


def test_a_deletion_of_a_variant_leaves_the_image(open_folder):
    folder = open_folder()
    variant = key_of("a", variant="~levels=full")
    for key in (key_of("a"), variant):
        folder.write(key, b"value", 0)

    assert folder.remove_image(ImageFiles.deleted_by(variant)) == 1

    assert value_of(folder, key_of("a")) == b"value"


def test_foreign_files_are_neither_counted_nor_removed(open_folder):
    folder = open_folder(len(VALUE) + 4096)
    folder.write(key_of("a"), VALUE, 0)
    shard = path_of(folder, key_of("a")).parent
    foreign = [folder.path / "notes.txt", shard / "notes.txt", shard / f"{file_name(key_of('a'))}.bak"]
    for path in foreign:
        path.write_bytes(VALUE)

    folder.scan()
    folder.write(key_of("b"), VALUE, 0)
    folder.remove_image(ImageFiles.deleted_by(key_of("a")))

    assert all(path.exists() for path in foreign)
    assert folder.count == 1


def test_links_are_not_followed(open_folder, tmp_path):
    folder = open_folder()
    folder.write(key_of("a"), VALUE, 0)
    path = path_of(folder, key_of("a"))
    outside = tmp_path / "outside"
    path.rename(outside)
    path.symlink_to(outside)

    folder.scan()

    assert folder.read(key_of("a")) is None
    assert folder.count == 0
    assert outside.exists()


def test_a_link_in_place_of_a_subfolder_is_not_followed(open_folder, tmp_path):
    folder = open_folder()
    folder.write(key_of("a"), VALUE, 0)
    shard = path_of(folder, key_of("a")).parent
    shard.rename(tmp_path / "outside")
    shard.symlink_to(tmp_path / "outside")

    folder.scan()

    assert folder.read(key_of("a")) is None
    assert folder.remove_image(ImageFiles.deleted_by(key_of("a"))) == 0
    with pytest.raises(NotADirectoryError):
        folder.write(key_of("a"), VALUE, 0)
    assert len(list((tmp_path / "outside").iterdir())) == 1


@pytest.mark.parametrize("position", [0, 5, 20, 36, 44, 60, 120, -1])
def test_a_changed_byte_is_noticed(open_folder, position):
    folder = open_folder()
    folder.write(key_of("a"), VALUE, 0)
    path = path_of(folder, key_of("a"))
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)

    with pytest.raises(CorruptFile):
        folder.read(key_of("a"))


@pytest.mark.parametrize("length", [0, 1, 30, 44, 100, 1000, -1])
def test_a_truncated_file_is_noticed(open_folder, length):
    folder = open_folder()
    folder.write(key_of("a"), VALUE, 0)
    path = path_of(folder, key_of("a"))
    path.write_bytes(path.read_bytes()[:length])

    with pytest.raises(CorruptFile):
        folder.read(key_of("a"))


def test_the_file_of_another_key_is_noticed(open_folder):
    folder = open_folder()
    for name in "ab":
        folder.write(key_of(name), VALUE, 0)
    path_of(folder, key_of("a")).replace(path_of(folder, key_of("b")))

    with pytest.raises(CorruptFile):
        folder.read(key_of("b"))


def test_a_file_with_appended_bytes_is_noticed(open_folder):
    folder = open_folder()
    folder.write(key_of("a"), VALUE, 0)
    with path_of(folder, key_of("a")).open("ab") as file:
        file.write(b"more")

    with pytest.raises(CorruptFile):
        folder.read(key_of("a"))


@pytest.fixture
def small_device(tmp_path):
    """A file system of 5 MiB."""
    path = tmp_path / "device"
    path.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", path], check=False).returncode
    ):
        pytest.skip("needs the right to mount")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def test_on_a_full_device_older_files_are_evicted(small_device):
    folder = EmbeddingFolder(small_device / "embeddings", 1 << 30)

    for name in "abcdef":
        assert folder.write(key_of(name), VALUE, 0) is True

    assert value_of(folder, key_of("f")) == VALUE
    assert value_of(folder, key_of("a")) is None


def test_a_device_full_of_foreign_files_leaves_no_part_of_a_file(small_device):
    folder = EmbeddingFolder(small_device / "embeddings", 1 << 30)
    (small_device / "foreign").write_bytes(bytes((4 << 20) + 500_000))

    with pytest.raises(OSError, match="No space left"):
        folder.write(key_of("a"), VALUE, 0)

    assert [path for path in folder.path.rglob("*") if path.is_file()] == []


WRITE_LIMITED = """
import resource, sys
from pathlib import Path
from service.cache.disk.folder import EmbeddingFolder
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    EmbeddingFolder(Path(sys.argv[1]), 1 << 30).write(sys.argv[2], bytes(1 << 20), 0)
except OSError as error:
    print(error.strerror)
"""


def test_a_write_that_fails_half_way_leaves_no_part_of_a_file(open_folder):
    folder = open_folder()

    ended = run(WRITE_LIMITED, folder.path, key_of("a"))

    assert ended.stdout == "File too large\n"
    assert folder.read(key_of("a")) is None
    assert [path for path in folder.path.rglob("*") if path.is_file()] == []


WRITE_FOREVER = """
import itertools, sys
from pathlib import Path
from service.cache.disk.folder import EmbeddingFolder
folder = EmbeddingFolder(Path(sys.argv[1]), 1 << 30)
for number in itertools.count():
    folder.write(sys.argv[2], bytes([number % 256]) * (8 << 20), number)
    print(number, flush=True)
"""


def test_a_process_that_is_killed_while_it_writes_leaves_a_whole_file(open_folder):
    folder = open_folder()
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITE_FOREVER, str(folder.path), key_of("a")], stdout=subprocess.PIPE
        )
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60.0)

        header, value = folder.read(key_of("a"))

        assert value == bytes([header.began_at_ms % 256]) * (8 << 20)
    folder.scan()
    assert folder.count == 1


def test_what_a_killed_process_left_is_removed_after_an_hour(open_folder):
    folder = open_folder()
    folder.write(key_of("a"), VALUE, 0)
    path = path_of(folder, key_of("a"))
    new, old = (path.with_name(f"{path.name}.{digit * 16}.new") for digit in "01")
    for each in (new, old):
        each.write_bytes(b"part")
    os.utime(old, (1, 1))

    folder.scan()

    assert (new.exists(), old.exists()) == (True, False)


@contextlib.contextmanager
def unprivileged():
    """Be a user to whom permissions of files apply."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_that_may_not_be_written_to_is_read():
    with tempfile.TemporaryDirectory() as name:
        folder = EmbeddingFolder(Path(name) / "embeddings", 1 << 30)
        folder.write(key_of("a"), VALUE, 0)
        for path in (Path(name), folder.path, *folder.path.rglob("*")):
            path.chmod(0o555)
        with unprivileged():
            reader = EmbeddingFolder(folder.path, 1 << 30)

            assert value_of(reader, key_of("a")) == VALUE
            reader.scan()
            with pytest.raises(PermissionError):
                reader.write(key_of("b"), VALUE, 0)
            with pytest.raises(PermissionError):
                reader.remove_image(ImageFiles.deleted_by(key_of("a")))
        for path in (Path(name), folder.path, *folder.path.rglob("*")):
            path.chmod(0o700)


EVICT_EACH_OTHER = """
import sys
from pathlib import Path
from service.cache.disk.folder import EmbeddingFolder
from service.sam.embedding import embedding_key
folder = EmbeddingFolder(Path(sys.argv[1]), 4 << 20)
for number in range(60):
    key = embedding_key(f"{(number * int(sys.argv[2])) % 20:064x}", "0123456789abcdef", "float16")
    found = folder.read(key)
    assert found is None or found[1] == key.encode() * 5000
    folder.write(key, key.encode() * 5000, number)
    if number % 10 == 0:
        folder.scan()
"""


def test_two_processes_that_evict_each_other_s_files_read_no_wrong_value(open_folder):
    folder = open_folder(4 << 20)
    processes = [
        subprocess.Popen([sys.executable, "-c", EVICT_EACH_OTHER, str(folder.path), step], stderr=subprocess.PIPE)
        for step in ("3", "7")
    ]

    errors = [process.communicate(timeout=120.0)[1] for process in processes]

    assert errors == [b"", b""]
    folder.scan()
    assert folder.held_bytes <= 4 << 20
    assert folder.held_bytes == sum(path.stat().st_size for path in folder.path.glob("??/*"))


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, timeout=60.0, check=True
    )
