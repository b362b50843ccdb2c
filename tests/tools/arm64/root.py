"""A root folder of Debian for arm64, whose programs run here under user-mode emulation."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[3]
WORK = ROOT / "build" / "arm64"
SUITE = "bookworm"
PYTHON = "3.11"
# The reference of the tests. Later builds for arm64 contain CUDA and are four times as large.
TORCH = "torch==2.9.1"
TEST_PACKAGES = ("pytest-asyncio", "hypothesis", "onnx", "safetensors", "scikit-image", "typer", "httpx", "pyyaml")

_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_RULE = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
# ONNX Runtime reads what a processor can from this file. QEMU shows that of the host, on which it crashes. This is a
# Cortex-A72 (Raspberry Pi 4, Graviton), the emulated processor.
PROCESSOR = "cortex-a72"
_CPUINFO = """processor\t: {number}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""


class SetupError(RuntimeError):
    """Something that this machine needs is missing. The message says what to do."""


def make_root() -> Path:
    """Return a root folder with Python and the packages that the tests need. It is made once.

    Raises:
        SetupError: A tool is missing, or emulation is not registered and cannot be.
    """
    register_emulation()
    root = WORK / "root"
    _once("root", [SUITE], lambda: _unpack_debian(root))
    locks = [(ROOT / "requirements" / f"{name}.lock").read_text() for name in ("serve", "dev")]
    _once("packages", [*locks, TORCH, *TEST_PACKAGES], _install_packages)
    return root


def register_emulation() -> None:
    """Make Linux run programs for arm64 by QEMU, as the package qemu-user-static does where systemd runs.

    Raises:
        SetupError: QEMU is missing, or the kernel refuses.
    """
    if not shutil.which("qemu-aarch64-static") or not _RULE.exists():
        raise SetupError("QEMU is missing. Install it: apt-get install qemu-user-static mmdebstrap arch-test")
    if not (_BINFMT / "register").exists():
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(_BINFMT)], check=False, capture_output=True)
    if (_BINFMT / "qemu-aarch64").exists():
        return
    try:
        (_BINFMT / "register").write_text(_RULE.read_text().strip())
    except OSError as error:
        raise SetupError(f"Emulation of arm64 cannot be registered in {_BINFMT}; run this as root: {error}") from error


def cpuinfo() -> str:
    """Return what /proc/cpuinfo of the emulated processor says, with as many cores as this machine has."""
    return "".join(_CPUINFO.format(number=number) for number in range(os.cpu_count() or 1))


def environment(root: Path) -> dict[str, str]:
    """Return the environment in which programs of the root folder find their libraries and Python its packages."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TERM", "TMPDIR") if name in os.environ}
    return {
        **kept,
        "PATH": str(root / "usr" / "bin"),
        "QEMU_LD_PREFIX": str(root),
        "QEMU_CPU": PROCESSOR,
        "PYTHONPATH": str(WORK / "packages"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "ORT_DISABLE_TELEMETRY": "1",
    }


def python(root: Path) -> str:
    """Return the path of Python for arm64."""
    return str(root / "usr" / "bin" / "python3")


def install_library(wheel: Path) -> Path:
    """Unpack the native library of a wheel into this checkout.

    Raises:
        SetupError: The wheel has no build for arm64.
    """
    name = "service/native/_armv8_a.so"
    with ZipFile(wheel) as archive:
        if name not in archive.namelist():
            raise SetupError(f"{wheel} contains no native library for arm64: its compilation failed")
        target = ROOT / name
        target.write_bytes(archive.read(name))
    return target


def _once(name: str, inputs: list[str], make) -> None:
    """Call `make` unless it was called with these inputs before."""
    stamp = WORK / f"{name}.json"
    wanted = {"inputs": hashlib.sha256("\0".join(inputs).encode()).hexdigest()}
    if stamp.exists() and json.loads(stamp.read_text()) == wanted:
        return
    WORK.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    shutil.rmtree(WORK / name, ignore_errors=True)
    make()
    stamp.write_text(json.dumps(wanted))


def _unpack_debian(root: Path) -> None:
    if not shutil.which("mmdebstrap"):
        raise SetupError("mmdebstrap is missing. Install it: apt-get install mmdebstrap")
    print(f"Unpacking Debian {SUITE} for arm64 with Python into {root} (ten seconds)", flush=True)
    include = "--include=python3,libstdc++6,libgomp1,coreutils,dash"
    _run(["mmdebstrap", "--quiet", "--variant=extract", "--arch=arm64", include, SUITE, str(root)])
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc" / "cpuinfo").write_text(cpuinfo())


def _install_packages() -> None:
    target = WORK / "packages"
    print(f"Installing packages for arm64 into {target}: NumPy, ONNX Runtime, PyTorch, pytest (a minute)", flush=True)
    uv = [str(Path(sys.executable).with_name("uv")), "pip", "install", "-q", "--python", sys.executable, "--no-build"]
    place = ["--python-platform", "aarch64-manylinux_2_28", "--python-version", PYTHON, "--target", str(target)]
    requirements = ROOT / "requirements"
    _run([*uv, *place, "--require-hashes", "--no-deps", "-r", str(requirements / "serve.lock")])
    _run([*uv, *place, "-c", str(requirements / "dev.lock"), *TEST_PACKAGES, TORCH])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SetupError(f"{' '.join(command)}: status {done.returncode}\n{done.stderr[-2000:]}")
