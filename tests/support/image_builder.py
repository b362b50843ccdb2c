"""Builds the Dockerfile's targets for real and runs them, with buildah, podman and runc: no daemon, no registry.

What the Dockerfile starts FROM is made here of the distribution's packages under the names of the published images,
since tests pull nothing. All images lie in one store in the temporary folder, shared by every checkout of this user,
so that a second run builds only what changed. Containers use the host's network and nothing else of it.
"""

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
TARGETS = ("cpu", "openvino", "gpu", "model")

# As an operator should run the service; with the host's network, since tests have no other.
RUN_OPTIONS = (
    *("--pull", "never", "--network", "host", "--read-only", "--tmpfs", "/tmp:rw,size=64m"),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
)

_TOOLS = ("buildah", "podman", "runc", "catatonit", "mmdebstrap", "skopeo", "unshare")
_WORK = Path(tempfile.gettempdir()) / f"edgesam-images-{os.geteuid()}"  # short: podman allows 50 characters
_PYTHON_BASE = "docker.io/library/python:3.11-slim-bookworm"
_BUILD_S = 900.0
_COMMAND_S = 120.0


class ImageError(RuntimeError):
    """A tool failed; the message holds the end of what it printed."""


@functools.cache
def why_not() -> str | None:
    """Why no image can be built here, for a skip; None where it can."""
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        return f"not installed: {', '.join(missing)}; tests/ops/install installs them"
    if os.geteuid() != 0:
        return "images are built as root here: layers are mounted, containers get cgroups"
    _WORK.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_WORK) as folder:
        for name in ("lower", "upper", "work", "merged"):
            (Path(folder) / name).mkdir()
        mount = "mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged"
        tried = subprocess.run(["unshare", "--mount", "sh", "-c", mount], cwd=folder, capture_output=True, check=False)
    if tried.returncode != 0:
        return f"overlayfs cannot be mounted in {_WORK}: {tried.stderr.decode(errors='replace').strip()}"
    return None


def build(target: str = "cpu", *, labels: Mapping[str, str] | None = None) -> str:
    """Build a target of the Dockerfile; quick when nothing changed.

    Args:
        target: one of TARGETS.
        labels: set on the image. Not as build arguments: caches of older buildahs take a LABEL for the same when only
            the argument in it differs, and all checkouts share one.

    Returns:
        The image's name, to be run with `podman`. It belongs to this checkout.

    Raises:
        ImageError: it does not build; the message says why.
    """
    checkout = hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]
    tag = f"localhost/edgesam-{checkout}:{target}"
    _make_python_base()
    with _lock(f"build-{checkout}"):
        _run(
            [
                *(
                    "buildah",
                    *_store(),
                    "bud",
                    "--isolation",
                    "chroot",
                    "--format",
                    "docker",
                    "--pull-never",
                    "--layers",
                ),
                *_package_sources(),
                *("--build-arg", f"PYTHON_BASE={_PYTHON_BASE}", "--build-arg", f"CUDA_BASE={_PYTHON_BASE}"),
                *("--build-arg", "TORCH_INDEX="),  # wherever pip finds it
                *(word for name, value in (labels or {}).items() for word in ("--label", f"{name}={value}")),
                *("--target", target, "-t", tag, str(ROOT)),
            ],
            timeout_s=_BUILD_S,
        )
    return tag


def build_stand_in(name: str, recipe: str) -> str:
    """Build an image under the name of a published one, which tests cannot pull.

    Args:
        name: the whole name, such as docker.io/library/haproxy:3.0-alpine.
        recipe: lines of a Dockerfile behind FROM, such as `RUN apt-get install …`.
    """
    _make_python_base()
    with _lock("stand-ins"), tempfile.TemporaryDirectory(dir=_WORK) as folder:
        (Path(folder) / "Dockerfile").write_text(f"FROM {_PYTHON_BASE}\n{recipe}\n")
        options = ("--isolation", "chroot", "--format", "docker", "--pull-never", "--layers")
        _run(["buildah", *_store(), "bud", *options, "-t", name, folder], timeout_s=_BUILD_S)
    return name


def podman(*arguments: str, check: bool = True, timeout_s: float = _COMMAND_S) -> subprocess.CompletedProcess[str]:
    """Run podman on the tests' store, for instance `podman("run", *RUN_OPTIONS, build("cpu"))`.

    Raises:
        ImageError: the status is not 0, unless `check` is False.
        subprocess.TimeoutExpired: it took longer than `timeout_s`.
    """
    return _run([*podman_command(), *arguments], timeout_s=timeout_s, check=check)


def podman_command() -> list[str]:
    """`podman` with the options that every call needs, for who starts it in another way; see also `environment`."""
    return ["podman", *_store(), "--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]


def environment() -> dict[str, str]:
    """Environment in which podman has to run."""
    limits = _WORK / "containers.conf"
    if not limits.exists():  # podman's defaults are more than root may ask for in a container
        limits.write_text('[containers]\ndefault_ulimits=["nofile=20000:20000","nproc=4096:4096"]\n')
    return {**os.environ, "CONTAINERS_CONF": str(limits)}


def store_reference(tag: str) -> str:
    """The image for skopeo: containers-storage:[…]name."""
    return f"containers-storage:[overlay@{_WORK / 'store'}+{_WORK / 'run'}]{tag}"


def _store() -> list[str]:
    return ["--root", str(_WORK / "store"), "--runroot", str(_WORK / "run"), "--storage-driver", "overlay"]


def _make_python_base() -> None:
    """Debian with its own Python, under the name of the published image."""
    with _lock("base"):
        if (
            subprocess.run(["buildah", *_store(), "inspect", _PYTHON_BASE], capture_output=True, check=False).returncode
            == 0
        ):
            return
        with tempfile.TemporaryDirectory(dir=_WORK) as folder:
            archive = f"{folder}/base.tar"
            include = "--include=ca-certificates,python3,python3-venv,python3-pip"
            link = '--customize-hook=ln -sf python3 "$1/usr/bin/python"'
            _run(["mmdebstrap", "--variant=minbase", include, link, "bookworm", archive], timeout_s=_BUILD_S)
            podman("import", archive, _PYTHON_BASE)


def _package_sources() -> list[str]:
    """Mounts for RUN steps: where this machine's pip looks for packages, and whom it trusts. They leave no trace."""
    authorities = Path("/etc/ssl/certs/ca-certificates.crt")
    lines = ["[global]", f"cert = {authorities}"]
    mounts = ["-v", f"{authorities}:{authorities}:ro"] if authorities.exists() else []
    if folder := os.environ.get("PIP_FIND_LINKS"):
        lines.append(f"find-links = {folder}")
        mounts += ["-v", f"{folder}:{folder}:ro"]
    if index := os.environ.get("PIP_INDEX_URL"):
        lines.append(f"index-url = {index}")
    config = _WORK / "pip.conf"
    config.write_text("\n".join([*lines, ""]))
    return [*mounts, "-v", f"{config}:/etc/pip.conf:ro"]


@contextmanager
def _lock(name: str) -> Iterator[None]:
    """One at a time, across processes."""
    _WORK.mkdir(mode=0o700, exist_ok=True)
    with (_WORK / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(command: list[str], *, timeout_s: float, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False
    )
    if check and done.returncode != 0:
        raise ImageError(f"{' '.join(command)}: status {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done
