"""What has to hold before a release is published, one function for each check."""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from zipfile import ZipFile

from distributions import PLATFORMS, ROOT, ReleaseError, run

# Largest sizes, bytes. A wheel has the bundled model, 19 MB, and traced graphs, 1 MB.
_LIMITS = {"edgesam_service": 23_000_000, "edgesam_client": 200_000, "edgesam-client": 200_000}
# The version stands once in each of these files, after this text.
VERSIONED = {
    "service/__init__.py": '__version__ = "',
    "CITATION.cff": "\nversion: ",
    "k8s/base/replicas/kustomization.yaml": "newTag: ",
    "k8s/chart/Chart.yaml": "\nversion: ",
    "examples/react/package.json": "edgesam-client-",
}
_VERSION = r"\d+\.\d+\.\d+"


def version_of(path: str) -> str:
    """Return the version that a file of VERSIONED states.

    Raises:
        ReleaseError: It states none.
    """
    found = re.search(re.escape(VERSIONED[path]) + f"({_VERSION})", "\n" + (ROOT / path).read_text(encoding="utf-8"))
    if found is None:
        raise ReleaseError(f"{path} states no version after {VERSIONED[path].strip()!r}")
    return found[1]


def check_versions() -> str:
    """Check that all files state one version, and that the changelog has a section for it. Returns what was found.

    Raises:
        ReleaseError: They differ, the section is missing, or the tag belongs to another commit.
    """
    versions = {path: version_of(path) for path in VERSIONED}
    if len(set(versions.values())) != 1:
        raise ReleaseError("versions differ: " + ", ".join(f"{path} {version}" for path, version in versions.items()))
    version = versions["service/__init__.py"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE):
        raise ReleaseError(f"CHANGELOG.md has no section “## [{version}] - YYYY-MM-DD”")
    tagged = subprocess.run(
        ["git", "rev-parse", "-q", "--verify", f"refs/tags/v{version}^{{commit}}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    if tagged not in {"", run(["git", "rev-parse", "HEAD"], cwd=ROOT).strip()}:
        raise ReleaseError(f"the tag v{version} belongs to another commit: raise the version")
    return f"version {version}, {f'tag v{version} is here' if tagged else f'next: git tag -a v{version}'}"


def check_clean() -> str:
    """Check that everything is committed.

    Raises:
        ReleaseError: Something is not.
    """
    if changed := run(["git", "status", "--porcelain"], cwd=ROOT).strip():
        raise ReleaseError(f"commit or remove these first:\n{changed}")
    return run(["git", "log", "-1", "--format=commit %h of %cs"], cwd=ROOT).strip()


def check_alike(first: Iterable[Path], second: Iterable[Path]) -> str:
    """Check that two builds of one commit are equal byte for byte.

    Raises:
        ReleaseError: A file differs or is missing.
    """
    ours, theirs = ({path.name: sha256(path) for path in paths} for paths in (first, second))
    if differing := sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)):
        raise ReleaseError(f"two builds of one commit differ: {', '.join(differing)}")
    return f"{len(ours)} files, the same in both builds"


def check_contents(files: Iterable[Path]) -> str:
    """Check the native libraries, the size and the licence of each file, and that it has no tests and checkpoints.

    Raises:
        ReleaseError: Something is missing, or too much.
    """
    wheels = [path for path in files if path.suffix == ".whl"]
    for path in files:
        if path.stat().st_size > (limit := _LIMITS[path.name.split("-0")[0].split("-1")[0]]):
            raise ReleaseError(f"{path.name} has {path.stat().st_size} bytes, more than {limit}")
    for wheel in wheels:
        names = ZipFile(wheel).namelist()
        libraries = {name for name in names if name.endswith(".so")}
        (platform,) = [platform for platform in PLATFORMS if wheel.name.endswith(f"-none-{platform.tag}.whl")]
        if libraries != platform.libraries:
            raise ReleaseError(f"{wheel.name} has the libraries {sorted(libraries)}, not {sorted(platform.libraries)}")
        if unwanted := [name for name in names if re.match(r"tests/|model_store/checkpoints/", name)]:
            raise ReleaseError(f"{wheel.name} contains {unwanted[:3]}")
        if not any("/licenses/" in name for name in names):
            raise ReleaseError(f"{wheel.name} contains no licence")
    return f"{len(wheels)} wheels with their libraries and licences"


def check_metadata(files: Iterable[Path]) -> str:
    """Check source archives and wheels with twine, as the package index will.

    Raises:
        ReleaseError: twine finds something.
    """
    packages = [str(path) for path in files if path.suffix != ".tgz"]
    run([sys.executable, "-m", "twine", "check", "--strict", *packages])
    return f"{len(packages)} files"


def check_platforms(files: Iterable[Path]) -> str:
    """Check with auditwheel that native wheels run on every Linux that their names promise.

    Raises:
        ReleaseError: A wheel needs a later C library, or libraries of its own.
    """
    found = []
    for platform in (platform for platform in PLATFORMS if platform.libraries):
        (wheel,) = [path for path in files if path.name.endswith(f"{platform.tag}.whl")]
        facts = json.loads(run([sys.executable, "-m", "auditwheel", "show", "--json", str(wheel)]))
        oldest = facts.get("overall_tag", "")
        number = re.match(r"manylinux_2_(\d+)_", oldest)
        if number is None or int(number[1]) > 28 or facts["external_libs"]:
            raise ReleaseError(f"{wheel.name}: auditwheel says {facts}")
        found.append(oldest)
    return ", ".join(found)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
