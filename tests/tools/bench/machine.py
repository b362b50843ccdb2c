"""Description of the machine and the software of a run: commit, processor, memory and versions."""

import importlib.metadata
import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import onnxruntime

from service.process import available_cpus

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Machine:
    """Machine and software versions of a run."""

    commit: str
    date: str
    cpu: str
    cpus: int
    gpu: str
    instructions: str
    memory_gib: float
    python: str
    onnxruntime: str
    numpy: str
    opencv: str
    providers: str
    load_before: float

    @classmethod
    def here(cls) -> "Machine":
        """Return the description of this machine."""
        return cls(
            commit=_commit(),
            date=datetime.now(UTC).date().isoformat(),
            cpu=_cpuinfo("model name") or platform.processor() or platform.machine(),
            cpus=available_cpus(),
            gpu=_gpu(),
            instructions=_instructions(),
            memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
            python=platform.python_version(),
            onnxruntime=onnxruntime.__version__,
            numpy=importlib.metadata.version("numpy"),
            opencv=importlib.metadata.version("opencv-python-headless"),
            providers=", ".join(
                name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()
            ),
            load_before=os.getloadavg()[0],
        )

    def sentence(self) -> str:
        """Return the description as one sentence."""
        return ", ".join(
            [
                f"commit {self.commit}",
                f"{self.cpu} ({self.instructions})",
                f"{self.cpus} CPUs",
                *([self.gpu] if self.gpu else []),
                f"{self.memory_gib:.0f} GiB",
                f"Python {self.python}",
                f"ONNX Runtime {self.onnxruntime} ({self.providers})",
                self.date,
                f"load average before the run {self.load_before:.1f}",
            ]
        )


def _commit() -> str:
    """Return the short hash of the commit. A `+` means that tracked files were changed."""
    try:
        hashed = _git("rev-parse", "--short", "HEAD")
        return hashed + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, cwd=ROOT, timeout=10)
    return done.stdout.strip()


def _gpu() -> str:
    """Return the name of the first NVIDIA GPU, or an empty text."""
    try:
        asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return ""


def _instructions() -> str:
    """Return the vector extensions that affect the speed of matrix products."""
    flags = set((_cpuinfo("flags") or "").split())
    known = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "avx512_bf16": "BF16", "amx_tile": "AMX"}
    return ", ".join(name for flag, name in known.items() if flag in flags) or platform.machine()


def _cpuinfo(field: str) -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field)), None)
