"""Builds the Dockerfile's targets and runs them with buildah, podman and runc, without a daemon and a registry.

Tests pull no images. So base images are built from the distribution's packages, under the names of the published ones.
All images are in one store in the temporary folder, which every checkout of this user shares, so that unchanged layers
are cached. Containers use the host's network.
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
TARGETS = ("cpu", "openvino", "gpu", "store", "model")


_TOOLS = ("buildah", "podman", "runc", "catatonit", "mmdebstrap", "skopeo", "unshare")
_WORK = Path(tempfile.gettempdir()) / f"edgesam-images-{os.geteuid()}"  # short: podman allows 50 characters
_PYTHON_BASE = "docker.io/library/python:3.11-slim-bookworm"
_BUILD_S = 900.0
_EMULATED_BUILD_S = 7200.0  # for a busy machine: it needs eight minutes of processor time
_COMMAND_S = 120.0


class ImageError(RuntimeError):
    """A tool failed. The message contains the end of its output."""


@functools.cache
def why_not() -> str | None:
    """Return the reason why no image can be built on this machine, or None if it can."""
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        return f"not installed: {', '.join(missing)}; tests/ops/install installs them"
    if os.geteuid() != 0:
        return "building images needs root, for mounts and cgroups"
    _WORK.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_WORK) as folder:
        for name in ("lower", "upper", "work", "merged"):
            (Path(folder) / name).mkdir()
        mount = "mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged"
        tried = subprocess.run(["unshare", "--mount", "sh", "-c", mount], cwd=folder, capture_output=True, check=False)
    if tried.returncode != 0:
        return f"overlayfs cannot be mounted in {_WORK}: {tried.stderr.decode(errors='replace').strip()}"
    return None


def build(target: str = "cpu", *, labels: Mapping[str, str] | None = None, architecture: str | None = None) -> str:
    """Build a target of the Dockerfile. Unchanged layers are cached.

    Args:
        target: One of TARGETS.
        labels: Labels of the image. They are not build arguments, because the cache of older versions of buildah
            ignores a change of an argument in a LABEL, and all checkouts share one cache.
        architecture: Architecture of Debian, such as arm64, whose programs this machine can run. By default its own.

    Returns:
        Name of the image, for `podman`. Each checkout has its own.

    Raises:
        ImageError: The build fails. The message contains the reason.
    """
    checkout = hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]
    tag = f"localhost/edgesam-{checkout}:{target}{_suffix(architecture)}"
    base = bare_python(architecture)
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
                *package_sources(),
                *(("--platform", f"linux/{architecture}") if architecture else ()),
                *("--build-arg", f"PYTHON_BASE={base}", "--build-arg", f"CUDA_BASE={base}"),
                *("--build-arg", "TORCH_INDEX="),  # pip's default index
                *(word for name, value in (labels or {}).items() for word in ("--label", f"{name}={value}")),
                *("--target", target, "-t", tag, str(ROOT)),
            ],
            timeout_s=_EMULATED_BUILD_S if architecture else _BUILD_S,
        )
    return tag


def build_stand_in(name: str, recipe: str) -> str:
    """Build an image under the name of a published one, which tests cannot pull.

    Args:
        name: Full name of the image, such as docker.io/library/haproxy:3.0-alpine.
        recipe: Lines of a Dockerfile after FROM, such as `RUN apt-get install …`.
    """
    bare_python()
    with _lock("stand-ins"), tempfile.TemporaryDirectory(dir=_WORK) as folder:
        (Path(folder) / "Dockerfile").write_text(f"FROM {_PYTHON_BASE}\n{recipe}\n")
        options = ("--isolation", "chroot", "--format", "docker", "--pull-never", "--layers")
        _run(["buildah", *_store(), "bud", *options, "-t", name, folder], timeout_s=_BUILD_S)
    return name


def podman(*arguments: str, check: bool = True, timeout_s: float = _COMMAND_S) -> subprocess.CompletedProcess[str]:
    """Run podman on the tests' image store.

    Raises:
        ImageError: The exit status is not 0, and `check` is True.
        subprocess.TimeoutExpired: podman took longer than `timeout_s`.
    """
    return _run([*podman_command(), *arguments], timeout_s=timeout_s, check=check)


def podman_command() -> list[str]:
    """Return podman with the options that every call needs. It also needs `environment`."""
    return ["podman", *_store(), "--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]


def environment() -> dict[str, str]:
    """Return the environment variables that podman needs."""
    limits = _WORK / "containers.conf"
    if not limits.exists():  # podman's defaults exceed root's limits in a container
        limits.write_text('[containers]\ndefault_ulimits=["nofile=20000:20000","nproc=4096:4096"]\n')
    return {**os.environ, "CONTAINERS_CONF": str(limits)}


def store_reference(tag: str) -> str:
    """Return the reference of an image for skopeo: containers-storage:[…]name."""
    return f"containers-storage:[overlay@{_WORK / 'store'}+{_WORK / 'run'}]{tag}"


def _store() -> list[str]:
    return ["--root", str(_WORK / "store"), "--runroot", str(_WORK / "run"), "--storage-driver", "overlay"]


def _suffix(architecture: str | None) -> str:
    return f"-{architecture}" if architecture else ""


def bare_python(architecture: str | None = None) -> str:
    """Build Debian with its own Python and pip, under the name of the published image, and return the name.

    Args:
        architecture: Another processor than this machine's, such as arm64. The name then ends with it.
    """
    name = f"{_PYTHON_BASE}{_suffix(architecture)}"
    with _lock(f"base{_suffix(architecture)}"):
        if subprocess.run(["buildah", *_store(), "inspect", name], capture_output=True, check=False).returncode == 0:
            return name
        with tempfile.TemporaryDirectory(dir=_WORK) as folder:
            archive = f"{folder}/base.tar"
            include = "--include=ca-certificates,python3,python3-venv,python3-pip"
            link = '--customize-hook=ln -sf python3 "$1/usr/bin/python"'
            foreign = [f"--architectures={architecture}"] if architecture else []
            _run(
                ["mmdebstrap", "--variant=minbase", *foreign, include, link, "bookworm", archive],
                timeout_s=_EMULATED_BUILD_S if architecture else _BUILD_S,
            )
            podman("import", *(["--arch", architecture] if architecture else []), archive, name)
    return name


def package_sources() -> list[str]:
    """Return mounts for RUN steps: package sources and certificates of this machine. They do not change the image."""
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
    """Hold a lock across processes."""
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
