"""The settings that this process changes of itself, and the limits of the system that it reads.

`python -m service` calls `prepare_environment` before it imports anything large, and the rest once while it starts.
Two settings are made elsewhere. The Dockerfile and the Makefile set MALLOC_ARENA_MAX=1, because glibc reads it before
Python runs. Threads that compute for uploads lower their own priority, because each thread has its own nice value.
"""

import contextlib
import ctypes
import logging
import os
import re
import warnings
from collections.abc import Collection, MutableMapping
from pathlib import Path
from typing import Final

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

# Variables that libraries read when they are imported.
_ENVIRONMENT: Final = {
    "ORT_DISABLE_TELEMETRY": "1",
    # NumPy's own threads would compete with the decoder's and the encoder's for the same processors.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    # The Prometheus client would write a second series `…_created` beside every counter.
    "PROMETHEUS_DISABLE_CREATED_SERIES": "1",
}

# Kubernetes writes NAME_PORT=tcp://… and further variables into containers for every Service of the namespace.
_LINK_PORT: Final = re.compile(r"EDGESAM_(\w+_)?PORT")
_LINK_VALUE: Final = re.compile(r"(tcp|udp|sctp)://")
_LINK_FURTHER: Final = re.compile(
    r"EDGESAM_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)

# Files beside connections: model, log, Redis, metrics, and files that libraries open for a moment.
_RESERVED_FILES: Final = 64


def prepare_environment(environment: MutableMapping[str, str]) -> None:
    """Set the variables that libraries read at import. A variable that is set already keeps its value.

    Args:
        environment: Environment of the process, `os.environ`.
    """
    for name, value in _ENVIRONMENT.items():
        environment.setdefault(name, value)


def drop_service_links(environment: MutableMapping[str, str], settings: Collection[str]) -> list[str]:
    """Remove the variables that Kubernetes derives from Services whose name begins with `edgesam`.

    For a Service `edgesam` Kubernetes sets EDGESAM_PORT=tcp://10.0.0.1:8000 and about ten further variables, for a
    Service `edgesam-metrics` it sets EDGESAM_METRICS_PORT. These are names of settings with values that are not valid.

    Args:
        environment: Environment of the process, `os.environ`.
        settings: Names of all settings, such as EDGESAM_PORT.

    Returns:
        Names of settings among the removed variables, sorted.
    """
    links = [
        name
        for name, value in environment.items()
        if _LINK_FURTHER.fullmatch(name) or (_LINK_PORT.fullmatch(name) and _LINK_VALUE.match(value))
    ]
    for name in links:
        del environment[name]
    return sorted(set(links).intersection(settings))


def configure_image_libraries() -> None:
    """Set the options of Pillow, its extension for HEIC and OpenCV that hold for the whole process.

    Afterwards one thread decodes an image, only `service.sam.images` limits its size, and a damaged image writes no
    line to the log. Otherwise libtiff would write one line for every broken line of a TIFF. The client still gets an
    answer.
    """
    import cv2  # noqa: PLC0415 - imports NumPy, which reads the environment
    from PIL import AvifImagePlugin, Image, _imaging  # noqa: PLC0415 - not needed by `--help`

    cv2.setNumThreads(1)  # each worker thread has a processor of its own already
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    with contextlib.suppress(ImportError):
        import pillow_heif  # noqa: PLC0415 - an extra

        pillow_heif.options.DECODE_THREADS = 1
        for name in ("THUMBNAILS", "DEPTH_IMAGES", "AUX_IMAGES"):  # nobody looks at them
            setattr(pillow_heif.options, name, False)
    Image.MAX_IMAGE_PIXELS = None  # Pillow's limit counts differently from `max_pixels`, and only warns at first
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    with contextlib.suppress(OSError, AttributeError):  # a Pillow without libtiff has no such functions
        libtiff = ctypes.CDLL(_imaging.__file__)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            set_handler = getattr(libtiff, name)
            set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            set_handler(None)


def raise_file_limit(max_connections: int) -> int:
    """Raise the soft limit of open files as far as `max_connections` needs and the hard limit allows.

    Shells and containers often start with a soft limit of 1024. A process at its limit could open neither a connection
    to Redis nor a file. Windows has no such limit.

    Args:
        max_connections: Wanted number of open connections.

    Returns:
        Number of connections that the limit allows, from 1 to `max_connections`.
    """
    if resource is None:
        return max_connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max_connections + _RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max_connections if soft == resource.RLIM_INFINITY else max(1, min(max_connections, soft - _RESERVED_FILES))


def available_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the number of processors that affinity and cgroup quota allow, rounded down, at least 1.

    ONNX Runtime would start a thread for every processor of the node. With a quota of 2 processors on a node of 64, the
    kernel would then throttle the threads in the middle of a request.

    Args:
        cgroup: Directory of the cgroup file system.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota_v2(cgroup) or _quota_v1(cgroup)
    return max(1, min(affinity, int(quota))) if quota else affinity


def _quota_v2(cgroup: Path) -> float | None:
    try:
        limit, period = (cgroup / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        return None


def _quota_v1(cgroup: Path) -> float | None:
    try:
        limit = int((cgroup / "cpu" / "cpu.cfs_quota_us").read_text())
        period = int((cgroup / "cpu" / "cpu.cfs_period_us").read_text())
        return limit / period if limit > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
