"""Installs wheels in a container that has Python and nothing else, and uses them as their readers will."""

import json
import socket
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from distributions import ROOT, ReleaseError

sys.path.insert(0, str(ROOT / "tests"))

from support.image_builder import ImageError, bare_python, package_sources, podman, why_not

SAMPLE = ROOT / "service" / "web" / "samples" / "dahlia.jpg"
BOX = [165, 80, 450, 360]
_INSTALL_S = 300.0
_EMULATED_S = 1500.0
# A decoder in C and ONNX Runtime may differ in single pixels of a border.
_SAME_AREA = 0.002


def check_installed(
    service_wheel: Path, client_wheel: Path, *, decoder: str, architecture: str | None = None
) -> tuple[str, int]:
    """Install both packages in a bare container, start the service, and segment a sample with the client.

    Args:
        service_wheel: Wheel of edgesam-service.
        client_wheel: Wheel of edgesam-client.
        decoder: How `/models` has to name the decoder: `native` or `onnx`.
        architecture: Another processor than this machine's, which is then emulated: arm64.

    Returns:
        What was found, and the area of the sample's mask in pixels.

    Raises:
        ReleaseError: Something fails. The message has the container's log.
    """
    if reason := why_not():
        raise ReleaseError(f"no container can be run: {reason}")
    port = _free_port()
    folder = service_wheel.resolve().parent
    steps = (
        f"python3 -m venv /tmp/service && /tmp/service/bin/pip install -q '/dist/{service_wheel.name}[cpu]'",
        f"python3 -m venv /tmp/client && /tmp/client/bin/pip install -q '/dist/{client_wheel.name}[cli]'",
        f"exec /tmp/service/bin/edgesam serve --host 127.0.0.1 --port {port}",
    )
    mounts = ["-v", f"{folder}:/dist:ro", "-v", f"{SAMPLE}:/dahlia.jpg:ro", *package_sources()]
    name = podman(
        "run", "-d", "--network", "host", *mounts, bare_python(), "sh", "-ec", "\n".join(steps)
    ).stdout.strip()
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url, name, _INSTALL_S if architecture is None else _EMULATED_S)
        (model,) = _answer(f"{url}/models")["models"]
        if not model["decoder"].startswith(decoder):
            raise ReleaseError(f"{service_wheel.name}: the decoder is {model['decoder']}, not {decoder}")
        box = ",".join(map(str, BOX))
        command = f"/tmp/client/bin/edgesam-client /dahlia.jpg --box {box} --mask /tmp/mask.png --url {url}"
        podman("exec", name, "sh", "-ec", f"{command} && test -s /tmp/mask.png", timeout_s=_EMULATED_S)
        area = _area(url)
        counts = [
            podman(
                "exec",
                name,
                "sh",
                "-c",
                f"/tmp/{kind}/bin/pip list --exclude pip --exclude setuptools 2>/dev/null | wc -l",
            )
            for kind in _KINDS
        ]
        packages = ", ".join(
            f"{kind} {int(done.stdout) - 2} packages" for kind, done in zip(_KINDS, counts, strict=True)
        )
        return f"decoder {model['decoder']}, mask of {area} pixels, {packages}", area
    except (ImageError, AssertionError, OSError, LookupError) as error:
        log = podman("logs", name, check=False)
        raise ReleaseError(f"{service_wheel.name}: {error}\n{log.stdout[-2000:]}{log.stderr[-2000:]}") from error
    finally:
        podman("rm", "-f", "-t", "1", name, check=False)


def check_same_masks(areas: dict[str, int]) -> str:
    """Check that all wheels make the same mask.

    Raises:
        ReleaseError: Their areas differ by more than pixels of a border.
    """
    if max(areas.values()) - min(areas.values()) > _SAME_AREA * min(areas.values()):
        raise ReleaseError(f"masks differ, pixels: {areas}")
    return "masks agree"


_KINDS = ("service", "client")


def _emulation(architecture: str) -> list[str]:
    """Return the options of podman that let a container run under QEMU, and its time limits follow."""
    from tools.arm64.root import PROCESSOR, cpuinfo, register_emulation

    register_emulation()
    file = ROOT / "build" / "arm64" / "cpuinfo"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(cpuinfo(), encoding="utf-8")
    limits = ("EDGESAM_EMBED_TIMEOUT_S", "EDGESAM_SEGMENT_TIMEOUT_S")
    settings = {"QEMU_CPU": PROCESSOR, "EDGESAM_PROVIDER": "cpu", **dict.fromkeys(limits, f"{_EMULATED_S:.0f}")}
    variables = [word for name, value in settings.items() for word in ("-e", f"{name}={value}")]
    return ["--platform", f"linux/{architecture}", "-v", f"{file}:/proc/cpuinfo:ro", *variables]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait(url: str, container: str, timeout_s: float) -> None:
    """Wait until the service is ready, as long as its container runs."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        try:
            _answer(f"{url}/readyz")
        except OSError:
            (state,) = json.loads(podman("inspect", container).stdout)
            assert state["State"]["Running"], "the container has ended"
            time.sleep(0.5)
        else:
            return
    raise ReleaseError(f"the service did not become ready in {timeout_s:.0f} s")


def _area(url: str) -> int:
    body = json.dumps({"image_hash": _sha256(), "prompts": [{"box": BOX}]}).encode()
    request = urllib.request.Request(f"{url}/segment", body, {"Content-Type": "application/json"})
    return int(_answer(request)["results"][0]["masks"][0]["area"])


def _sha256() -> str:
    from checks import sha256

    return sha256(SAMPLE)


def _answer(request: str | urllib.request.Request) -> Any:
    with urllib.request.urlopen(request, timeout=_EMULATED_S) as answer:
        return json.load(answer)
