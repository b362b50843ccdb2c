"""The tools of a release: versions, source archives that can be built again, and what wheels contain."""

import io
import re
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "release"))

from checks import VERSIONED, check_alike, check_contents, version_of
from distributions import PLATFORMS, ReleaseError, settle_times

from service import __version__

ROOT = Path(__file__).parents[2]
# Files that name the version more than once, or in commands.
REPEATED = (
    "k8s/chart/Chart.yaml",
    "k8s/components/gpu/kustomization.yaml",
    "docs/how-to/docker.md",
    "docs/how-to/kubernetes.md",
    "docs/how-to/release.md",
)


@pytest.mark.parametrize("path", VERSIONED)
def test_a_file_states_the_version(path: str):
    assert version_of(path) == __version__


@pytest.mark.parametrize("path", REPEATED)
def test_all_versions_of_a_file_are_this_one(path: str):
    text = (ROOT / path).read_text(encoding="utf-8")

    found = re.findall(r"(?:edgesam(?:_\w+|-client)?[:-]|newTag: |[vV]ersion:? |--version |\bv)(\d+\.\d+\.\d+)", text)

    assert set(found) == {__version__}


def source_archive(path: Path, *, time: int, names: list[str]) -> Path:
    """Write a source archive whose files have this time, in this order."""
    with tarfile.open(path, "w:gz") as files:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.uid, member.uname = 4, time, time % 1000, "somebody"
            files.addfile(member, io.BytesIO(b"code"))
    return path


def test_source_archives_of_two_builds_become_equal(tmp_path: Path):
    first = source_archive(tmp_path / "first.tar.gz", time=1_700_000_001, names=["a/x.py", "a/y.py"])
    second = source_archive(tmp_path / "second.tar.gz", time=1_800_000_002, names=["a/y.py", "a/x.py"])
    assert first.read_bytes() != second.read_bytes()

    for archive in (first, second):
        settle_times(archive, 1_600_000_000)

    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as files:
        members = files.getmembers()
        assert [(member.name, member.mtime, member.uid, member.mode) for member in members] == [
            ("a/x.py", 1_600_000_000, 0, 0o644),
            ("a/y.py", 1_600_000_000, 0, 0o644),
        ]
        assert files.extractfile(members[0]).read() == b"code"


@pytest.mark.parametrize("second", [b"other", None], ids=["another content", "missing"])
def test_builds_that_differ_are_named(tmp_path: Path, second: bytes | None):
    for folder, content in (("first", b"same"), ("second", second)):
        (tmp_path / folder).mkdir()
        if content is not None:
            (tmp_path / folder / "edgesam.whl").write_bytes(content)
    files = [list((tmp_path / folder).iterdir()) for folder in ("first", "second")]

    with pytest.raises(ReleaseError, match=r"differ: edgesam\.whl"):
        check_alike(*files)

    assert check_alike(files[0], files[0]) == "1 files, the same in both builds"


def wheel_of(folder: Path, tag: str, names: list[str]) -> Path:
    """Write a wheel with these files."""
    path = folder / f"edgesam_service-{__version__}-py3-none-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    return path


LICENCE = "edgesam_service.dist-info/licenses/LICENSE"


@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: platform.name)
def test_a_wheel_with_the_libraries_of_its_platform_passes(tmp_path: Path, platform):
    wheel = wheel_of(tmp_path, platform.tag, [LICENCE, *platform.libraries])

    assert check_contents([wheel]) == "1 wheels with their libraries and licences"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        pytest.param([LICENCE], "has the libraries", id="compilation failed"),
        pytest.param([LICENCE, "service/native/_armv8_a.so", "tests/test_app.py"], "contains", id="tests"),
        pytest.param(
            [LICENCE, "service/native/_armv8_a.so", "model_store/checkpoints/x"], "contains", id="checkpoints"
        ),
        pytest.param(["service/native/_armv8_a.so"], "no licence", id="licence"),
    ],
)
def test_a_wheel_with_other_contents_is_refused(tmp_path: Path, names: list[str], message: str):
    wheel = wheel_of(tmp_path, "manylinux_2_28_aarch64", names)

    with pytest.raises(ReleaseError, match=message):
        check_contents([wheel])
