"""Encode and click times of a model on this machine, kept in `timings.json` beside the model."""

import json
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from service.regular_files import read_regular_file

TIMINGS_NAME: Final = "timings.json"
TIME_LIMIT_S: Final = 600.0
_MAX_FILE_BYTES: Final = 10_000
_MAX_NUMBER: Final = 1e6


@dataclass(frozen=True, slots=True)
class Timings:
    """Times of one model on one processor.

    Args:
        encode_s: Time of the image encoder for one image, in seconds.
        click_s: Time of the prompt decoder for one point, in seconds.
        threads: Number of computing threads.
        processor: Name of the processor.
    """

    encode_s: float
    click_s: float
    threads: int
    processor: str


class TimingError(Exception):
    """The model could not be timed; the message gives the reason."""


def measure(directory: Path) -> Timings:
    """Time one model in a process of its own.

    The encoder of a large model may need more memory than there is. Then the system kills that process, and the
    caller's command goes on.

    Args:
        directory: Folder of an artifact in the served layout.

    Raises:
        TimingError: The process failed, was killed, or took longer than `TIME_LIMIT_S`.
    """
    command = [sys.executable, "-m", "model_store.time_model", str(directory)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False)  # noqa: S603 - our own module
    except subprocess.TimeoutExpired:
        raise TimingError(f"it took longer than {TIME_LIMIT_S:g} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise TimingError(lines[-1] if lines else f"the process ended with status {done.returncode}")
    return _timings(json.loads(done.stdout))


def store_timings(directory: Path, timings: Timings) -> None:
    """Write the times of a model beside it."""
    (directory / TIMINGS_NAME).write_text(json.dumps(asdict(timings), indent=2) + "\n", encoding="utf-8")


def stored_timings(directory: Path) -> Timings | None:
    """Return the times of a model, if they are known and were measured on a processor of this machine's name."""
    try:
        content = read_regular_file(directory / TIMINGS_NAME, _MAX_FILE_BYTES, follows_links=True)
        timings = _timings(json.loads(content[:_MAX_FILE_BYTES]))
    except (OSError, ValueError, RecursionError):  # absent, or edited: the model is listed without times
        return None
    return timings if timings.processor == processor_name() else None


def processor_name() -> str:
    """Return the name of this machine's processor, as the system states it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _timings(content: Any) -> Timings:
    """Return the times of a decoded file.

    Raises:
        ValueError: The content is something else.
    """
    if not isinstance(content, dict) or content.keys() != {field.name for field in fields(Timings)}:
        raise ValueError("not the members of timings")
    numbers = (content["encode_s"], content["click_s"], content["threads"])
    if not all(isinstance(number, int | float) and 0 < number <= _MAX_NUMBER for number in numbers):
        raise ValueError("a number is not positive, or too large")
    return Timings(float(numbers[0]), float(numbers[1]), int(numbers[2]), str(content["processor"]))
