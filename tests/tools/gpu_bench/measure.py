"""Measures serving on a GPU in at most 150 seconds, and writes one JSON; `measure.py --help` lists the options.

Where ONNX Runtime has the provider and the service's packages are installed, it measures the service. Elsewhere torch
takes the place of encoder and decoder, and the JSON says so. Each stage has a time limit, and the JSON is written after
each stage, so a run that is cut off is not lost.
"""

import argparse
import json
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, perf_counter
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[3]
sys.path[:1] = [str(ROOT), str(ROOT / "tests")]  # instead of this folder

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
import torch  # noqa: E402
from tools.bench.machine import Machine  # noqa: E402
from tools.gpu_bench.conformance import against_fixtures, against_graphs  # noqa: E402
from tools.gpu_bench.torch_backend import TorchBackend  # noqa: E402
from tools.gpu_train.weights import CHECKPOINT, read_checkpoint  # noqa: E402

ARTIFACT = ROOT / "model_store" / "artifacts" / "edgesam-lite"
TOTAL_S = 150.0
SHARES = {"conformance": 0.27, "encode": 0.17, "click": 0.1, "clients": 0.3}
"""Share of the total that each stage may take. The rest is for imports and the first calls."""
BATCHES, CLIENTS = (1, 8), (1, 4, 16, 64)
_POINT, _PADDING = 1, -1
_FRAME = 1024


class StageTimeout(Exception):
    """A stage has used its time."""


class Measurement:
    """The values of a run, in the form that the benchmark's page reads, and the file that they are written to.

    Args:
        chosen: Arguments of the command line.
    """

    def __init__(self, chosen: argparse.Namespace) -> None:
        self._chosen = chosen
        self._started = monotonic()
        self.values: dict[str, Any] = {}
        self.is_served = chosen.backend == "service" or (chosen.backend == "auto" and can_serve(chosen.device))
        self.made: dict[str, Any] = {
            "provider": "",
            "decoder": "" if self.is_served else "torch",
            "precision": chosen.precision,
            "threads": chosen.threads,
            "machine": {},
            "versions": {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__},
            "stages_s": {},
            "errors": {},
            "values": self.values,
        }

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return monotonic() - self._started

    def run(self, name: str, work: Callable[[], None]) -> None:
        """Run a stage within its time limit and the rest of the total, and write the file."""
        total = self._chosen.seconds
        started, limit = self.seconds, min(SHARES.get(name, 1.0) * total, total - self.seconds)
        try:
            with time_limit(limit):
                work()
        except Exception as error:  # noqa: BLE001 - the other stages have to go on, and the file tells what failed
            self.made["errors"][name] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        self.made["stages_s"][name] = round(self.seconds - started, 2)
        self.write()
        print(f"{name}: {self.made['errors'].get(name, 'done')}, after {self.seconds:.0f} s", flush=True)

    def write(self) -> None:
        """Write the file, whole or not at all."""
        path: Path = self._chosen.out
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps({**self.made, "seconds": round(self.seconds)}, indent=1, allow_nan=False))
        part.replace(path)


def main() -> None:
    """Run all stages."""
    chosen = _arguments()
    measurement = Measurement(chosen)
    measurement.made["machine"] = {name: value for name, value in _machine().items() if value is not None}
    backends: dict[str, Any] = {}

    def load() -> None:
        backends["own"] = (
            _served(chosen, chosen.precision) if measurement.is_served else _torch(chosen, chosen.precision)
        )
        measurement.made["provider"] = backends["own"].provider
        if measurement.is_served:
            measurement.made["decoder"] = backends["own"].runtime.decoder

    measurement.run("load", load)
    if "own" in backends:
        own = backends["own"]
        measurement.run("conformance", lambda: _conformance(measurement, chosen, own))
        measurement.run("encode", lambda: _encode(measurement, chosen, own))
        measurement.run("click", lambda: _click(measurement, chosen, own))
        measurement.run("clients", lambda: _clients(measurement, chosen, own))
    sys.exit(1 if measurement.made["errors"] else 0)


def can_serve(device: str) -> bool:
    """Return whether ONNX Runtime has the provider of a device, and the service's packages are installed."""
    if device == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return False
    try:
        from tools.gpu_bench import served_backend  # noqa: F401 - needs packages that torch's machine lacks
    except ImportError:
        return False
    return True


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise StageTimeout in the block after a time. A call that is on the device ends first."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise StageTimeout(f"stopped after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _conformance(measurement: Measurement, chosen: argparse.Namespace, own: Any) -> None:
    device = torch.device(chosen.device)
    found = against_fixtures(device, ("float32", "float16"), chosen.fixtures, cases=chosen.cases)
    measurement.values.update({f"fixtures.{name}": value for name, value in found.items()})
    if measurement.is_served:
        found = against_graphs(own, ARTIFACT)
        measurement.values.update({f"served.{name}": value for name, value in found.items()})


def _encode(measurement: Measurement, chosen: argparse.Namespace, own: Any) -> None:
    for batch in chosen.batches:
        frames = np.random.default_rng(0).standard_normal((batch, 3, _FRAME, _FRAME)).astype(np.float32)
        measurement.values[f"encode.batch_{batch}_ms"] = _median_ms(
            lambda frames=frames: own.encode(frames), chosen.rounds
        )
        peak = own.peak_bytes(frames)
        if peak is not None:
            measurement.values[f"memory.encode_peak_{batch}_mib"] = peak / 2**20
    measurement.values["graphs.encoder_all_ms"] = measurement.values["encode.batch_1_ms"]


def _click(measurement: Measurement, chosen: argparse.Namespace, own: Any) -> None:
    state = own.prepare(_tokens())
    measurement.values["memory.image_mib"] = own.state_bytes(state) / 2**20
    measurement.values["prepare_ms"] = _median_ms(lambda: own.prepare(_tokens()), chosen.rounds)
    points, labels = _prompts(1)
    measurement.values["click.decode_ms"] = _median_ms(lambda: own.decode(state, points, labels), chosen.rounds)
    if not measurement.is_served:
        measurement.values["click.medium_ms"] = measurement.values["click.decode_ms"]


def _clients(measurement: Measurement, chosen: argparse.Namespace, own: Any) -> None:
    """Prompts per second: over HTTP, or without the service by direct calls with one prompt for each client."""
    seconds = chosen.client_seconds
    if measurement.is_served:
        from tools.gpu_bench.clients import over_http

        measurement.values.update(over_http(chosen.device, chosen.precision, chosen.clients, seconds))
        return
    state = own.prepare(_tokens())
    for clients in chosen.clients:
        points, labels = _prompts(clients)
        own.decode(state, points, labels)
        calls, started = 0, perf_counter()
        while calls == 0 or perf_counter() < started + seconds:
            own.decode(state, points, labels)
            calls += 1
        measurement.values[f"load.per_s.{clients}"] = clients * calls / (perf_counter() - started)


def _tokens() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((4096, 256)).astype(np.float16)


def _prompts(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points (count, 2, 2) and labels (count, 2): one point each, and the padding beside it."""
    points = np.zeros((count, 2, 2), np.float32)
    points[:, 0] = np.random.default_rng(2).uniform(0, _FRAME, (count, 2))
    return points, np.tile(np.array([_POINT, _PADDING], np.int64), (count, 1))


def _median_ms(call: Callable[[], object], rounds: int) -> float:
    """Return the median duration of a call, whose results are on the host, after two calls that are not counted."""
    times = []
    for _ in range(rounds + 2):
        started = perf_counter()
        call()
        times.append((perf_counter() - started) * 1000.0)
    return float(np.median(times[2:]))


def _torch(chosen: argparse.Namespace, precision: Any) -> TorchBackend:
    return TorchBackend.of(read_checkpoint(CHECKPOINT), torch.device(chosen.device), precision)


def _served(chosen: argparse.Namespace, precision: str) -> Any:
    from tools.gpu_bench.served_backend import ServedBackend

    return ServedBackend.of(chosen.device, precision, threads=chosen.threads, max_batch=max(chosen.batches))


def _machine() -> dict[str, Any]:
    machine = Machine.here()
    return {name: getattr(machine, name) for name in ("commit", "date", "cpu", "cpus", "gpu", "python", "numpy")}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--backend", default="auto", choices=["auto", "service", "torch"])
    parser.add_argument("--precision", default="float32", choices=["float32", "float16"])
    parser.add_argument("--fixtures", type=Path, help="folder of pack.py; default: the fixtures in the repository")
    parser.add_argument("--seconds", type=float, default=TOTAL_S, help="time limit of the run; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=50, help="measured calls of each kind; default: %(default)s")
    parser.add_argument("--cases", type=int, help="largest number of prompts of the fixtures; default: all")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="images of an encoder call")
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS, help="numbers of clients")
    parser.add_argument("--client-seconds", type=float, default=4.0, help="for each number of clients")
    parser.add_argument("--threads", type=int, default=4, help="computing threads of a session on a CPU")
    return parser.parse_args()


if __name__ == "__main__":
    main()
