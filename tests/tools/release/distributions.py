"""Builds what a release consists of from a commit: source archives, wheels for each platform, the npm package."""

import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
CLIENT = Path("service") / "client"
_BUILD_S = 900.0


class ReleaseError(RuntimeError):
    """A step failed. The message says which one and why."""


@dataclass(frozen=True, slots=True)
class Platform:
    """A platform that gets a wheel of its own.

    Args:
        name: Name of the platform that `sysconfig` shall tell `setup.py`.
        target: Target of zig's C compiler; None for the wheel without native code.
        tag: Platform of the wheel's name.
        libraries: Native libraries of the wheel.
    """

    name: str
    target: str | None
    tag: str
    libraries: frozenset[str]


PLATFORMS = (
    Platform(
        "linux-x86_64",
        "x86_64-linux-gnu.2.28",
        "manylinux_2_28_x86_64",
        frozenset({"service/native/_x86_64_v3.so", "service/native/_x86_64_v4.so"}),
    ),
    Platform(
        "linux-aarch64",
        "aarch64-linux-gnu.2.28",
        "manylinux_2_28_aarch64",
        frozenset({"service/native/_armv8_a.so"}),
    ),
    Platform("any", None, "any", frozenset()),
)


def build_all(out: Path, *, commit: str = "HEAD", platforms: Sequence[Platform] = PLATFORMS) -> list[Path]:
    """Build all files of a release from a commit, in a temporary folder, and put them into `out`.

    Two builds of one commit are equal byte for byte: all times are that of the commit.

    Args:
        out: Folder for the files. Nothing else in it is changed.
        commit: Commit, branch or tag.
        platforms: Platforms that get wheels.

    Returns:
        The files: source archive and wheels of edgesam-service, those of edgesam-client, and the npm package.

    Raises:
        ReleaseError: A build fails.
    """
    out.mkdir(parents=True, exist_ok=True)
    built: list[Path] = []
    with tempfile.TemporaryDirectory(prefix="edgesam-release-") as folder:
        made, source = Path(folder) / "made", Path(folder) / "source"
        seconds = int(run(["git", "log", "-1", "--format=%ct", commit], cwd=ROOT))
        export(commit, source)
        archive = build_source(source, made, seconds)
        unpacked = unpack(archive, Path(folder) / "unpacked")
        built += [archive, *(build_wheel(unpacked, made, platform, seconds) for platform in platforms)]
        client = build_source(source / CLIENT, made, seconds)
        built += [client, build_wheel(unpack(client, Path(folder) / "client"), made, PLATFORMS[-1], seconds)]
        run(["make", "-s", "js-client"], cwd=source)
        built += sorted((source / "dist").glob("*.tgz"))
        return [Path(shutil.copy(path, out)) for path in built]


def build_of_working_tree(platform: Platform, out: Path) -> Path:
    """Build the wheel of a platform from what git knows of the working tree, committed or not."""
    commit = run(["git", "stash", "create"], cwd=ROOT).strip() or "HEAD"
    with tempfile.TemporaryDirectory(prefix="edgesam-release-") as folder:
        source, made = Path(folder) / "source", Path(folder) / "made"
        export(commit, source)
        wheel = build_wheel(source, made, platform, int(run(["git", "log", "-1", "--format=%ct"], cwd=ROOT)))
        out.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(wheel, out))


def export(commit: str, folder: Path) -> None:
    """Write the files of a commit into a folder, so that nothing uncommitted gets into a release."""
    folder.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")


def build_source(source: Path, out: Path, seconds: int) -> Path:
    """Build the source archive of the package in a folder, with all times set to `seconds` since 1970."""
    before = set(out.glob("*.tar.gz"))
    _build(source, "--sdist", out, seconds)
    (archive,) = set(out.glob("*.tar.gz")) - before
    settle_times(archive, seconds)
    return archive


def build_wheel(source: Path, out: Path, platform: Platform, seconds: int) -> Path:
    """Build the wheel of the package in a folder for a platform, with zig's C compiler."""
    environment = {"_PYTHON_HOST_PLATFORM": platform.name}
    options = []
    if platform.target is not None:
        compiler = f"{sys.executable} -m ziglang cc -target {platform.target}"
        environment |= {"CC": compiler, "LDSHARED": f"{compiler} -shared -s", "CFLAGS": ""}
        options = [f"-C--build-option=bdist_wheel --plat-name {platform.tag}"]
    before = set(out.glob("*.whl"))
    shutil.rmtree(source / "build", ignore_errors=True)  # setuptools would take over files of an earlier platform
    _build(source, "--wheel", out, seconds, options, environment)
    (wheel,) = set(out.glob("*.whl")) - before
    return wheel


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a source archive into a folder, and return the folder of the package in it."""
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    (package,) = folder.iterdir()
    return package


def settle_times(archive: Path, seconds: int) -> None:
    """Rewrite a source archive without what differs between builds: times, owners, and the order of its files."""
    with tarfile.open(archive) as files:
        members = [(member, files.extractfile(member)) for member in files.getmembers()]
        contents = {member.name: (member, None if file is None else file.read()) for member, file in members}
    written = io.BytesIO()
    with (
        gzip.GzipFile(filename="", fileobj=written, mode="wb", mtime=seconds) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as files,
    ):
        for _, (member, content) in sorted(contents.items()):
            settled = tarfile.TarInfo(member.name)
            settled.type, settled.size, settled.mtime = member.type, member.size, seconds
            settled.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            files.addfile(settled, None if content is None else io.BytesIO(content))
    archive.write_bytes(written.getvalue())


def run(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float = _BUILD_S,
) -> str:
    """Run a command and return its output.

    Raises:
        ReleaseError: It fails, or takes longer than `timeout_s`.
    """
    try:
        done = subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ReleaseError(f"{' '.join(command)}: {error}") from error
    if done.returncode != 0:
        raise ReleaseError(
            f"{' '.join(command)}: status {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        )
    return done.stdout


def _build(
    source: Path,
    kind: str,
    out: Path,
    seconds: int,
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> None:
    variables = {**os.environ, **(environment or {}), "SOURCE_DATE_EPOCH": str(seconds), "PYTHONHASHSEED": "0"}
    variables["ZIG_GLOBAL_CACHE_DIR"] = str(ROOT / "build" / "zig")
    umask = os.umask(0o022)  # the rights of the files in a wheel are those of the source
    try:
        run(
            [sys.executable, "-m", "build", "--no-isolation", kind, *options, "-o", str(out), str(source)],
            env=variables,
        )
    finally:
        os.umask(umask)
