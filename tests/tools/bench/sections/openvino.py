"""The encoder on OpenVINO, in float32 and bfloat16, beside ONNX Runtime and the official graphs; masks of bfloat16."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from support.sample_images import sample_images
from tools.bench.models import export_official_encoder, frame_of, session
from tools.bench.ours import embedding_of
from tools.bench.samples import COLUMNS, Samples, interleaved
from tools.bench.section import Section, Table
from tools.bench.workbench import Workbench

from model_store.checkpoint import load_checkpoint
from model_store.evaluation.metrics import iou
from model_store.export.artifact import export_model
from model_store.export.model_info import ModelInfo
from service.inference.backends.image_encoder import ImageEncoder
from service.inference.backends.onnx_graph import Resources
from service.inference.backends.providers import CPU, Backend, ProviderUnavailable, installed_providers
from service.inference.backends.runtime import Runtime
from service.sam.frame import Frame
from service.sam.prompts import Prompt, decoder_inputs
from service.sam.transforms import used_cells

OFFICIAL: Final = "official graph, ONNX Runtime"
FLOAT32, BFLOAT16 = Backend("openvino", "float32"), Backend("openvino", "bfloat16")
OURS: Final = {CPU: "ours, ONNX Runtime", FLOAT32: "ours, OpenVINO float32", BFLOAT16: "ours, OpenVINO bfloat16"}
LITE: Final = Path(__file__).parents[4] / "model_store" / "checkpoints" / "edgesam-lite.safetensors"
Calls = dict[tuple[str, int], Callable[[], Any]]


def measure(bench: Workbench) -> Section:
    """Measure the encoders of EdgeSAM and of edgesam-lite, with one thread and with all."""
    if "openvino" not in installed_providers():
        return Section(
            "Encoder on OpenVINO", "Not measured: openvino is not installed; `make openvino-test` installs it."
        )
    pairs = {"edgesam": (bench.models.official_encoder, bench.models.served), "lite": _lite(bench.folder)}
    tables, values = [], {}
    for name, (official, served) in pairs.items():
        samples = interleaved(_calls(bench, official, served), bench.effort.encoder_rounds, 1, warms=False)
        tables.append(_table("EdgeSAM" if name == "edgesam" else "edgesam-lite", samples))
        for threads in bench.thread_counts:
            place = "one" if threads == 1 else "all"
            for backend, title in OURS.items():
                if (title, threads) in samples:
                    key = f"openvino.{name}.{backend.provider}_{backend.precision}_{place}"
                    values[key] = _ratio(samples, title, threads)
    masks, overlaps = _masks(pairs["lite"][1], bench.cpus)
    if overlaps:
        tables.append(masks)
        values["openvino.mask_iou"] = float(np.mean(overlaps))
    return Section(
        "Encoder on OpenVINO",
        """
            One image. Both graphs of a model have the same weights. bfloat16 needs a processor with AVX512_BF16 or
            AMX; without it there are no rows for it. The last table compares the masks of edgesam-lite in bfloat16
            with those in float32, on the images of the page: the output with the best stability, inside the image.
            """,
        tables,
        values,
    )


def _lite(folder: Path) -> tuple[Path, Path]:
    """Return the official encoder's graph and our artifact of the bundled checkpoint."""
    model = load_checkpoint(LITE)
    info = ModelInfo(licence="none", trained=True, training_data="see the model card of edgesam-lite")
    export_model(model, folder / "lite", name="lite", info=info, weights="float32")
    export_official_encoder(model.deploy().eval(), folder / "official_lite.onnx")
    return folder / "official_lite.onnx", folder / "lite"


def _calls(bench: Workbench, official: Path, served: Path) -> Calls:
    feeds = {"image": bench.frame}
    calls: Calls = {}
    for threads in bench.thread_counts:
        plain = session(official, threads=threads, provider="cpu")
        calls[OFFICIAL, threads] = partial(plain.run, None, feeds)
        for backend, title in OURS.items():
            try:
                encoder = ImageEncoder(
                    served / "encoder.onnx", backend, Resources(threads), has_granularity=False, has_high_res=False
                )
            except ProviderUnavailable:
                continue
            calls[title, threads] = partial(encoder.encode, bench.frame)
            encoder.encode(bench.frame)  # the first run sets parts of the graph up
    return calls


def _table(title: str, samples: Mapping[tuple[str, int], Samples]) -> Table:
    rows = [[name, threads, *own.cells(), _ratio(samples, name, threads)] for (name, threads), own in samples.items()]
    return Table(title, ["encoder", "threads", *COLUMNS, "official ÷ this"], rows)


def _ratio(samples: Mapping[tuple[str, int], Samples], name: str, threads: int) -> float:
    return samples[OFFICIAL, threads].p50 / samples[name, threads].p50


def _masks(artifact: Path, threads: int) -> tuple[Table, list[float]]:
    """Return the IoU of masks in bfloat16 with those in float32; empty where the processor has no bfloat16."""
    table = Table("Masks of edgesam-lite in bfloat16", ["image", "IoU with float32"])
    exact = Runtime(artifact, provider="cpu", threads=threads)
    try:
        reduced = Runtime(artifact, provider="openvino", precision="bfloat16", threads=threads)
    except ProviderUnavailable:
        return table, []
    overlaps = []
    for sample in sample_images():
        with Image.open(sample.path) as opened:
            image = np.asarray(opened.convert("RGB"))
        found, expected = (_mask(runtime, image, sample.prompt) for runtime in (reduced, exact))
        overlaps.append(iou(found, expected))
        table.rows.append([sample.file, overlaps[-1]])
    return table, overlaps


def _mask(runtime: Runtime, image: NDArray[np.uint8], request: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Return the mask of a prompt, at the resolution of the logits."""
    size = (image.shape[0], image.shape[1])
    points = np.array([(point["x"], point["y"]) for point in request.get("points", [])]).reshape(-1, 2)
    box = np.array(request["box"], np.float64) if "box" in request else None
    prompt = Prompt(points=points, labels=np.ones(len(points), np.int64), box=box)
    frame = Frame(size, runtime.manifest.resize)
    state = runtime.prepare(embedding_of(runtime, frame_of(image), size)).arrays
    decoded = runtime.decode(state, *decoder_inputs([prompt], frame))
    rows, columns = used_cells(frame)
    best = int(decoded.stability[0].argmax())
    return np.asarray(decoded.mask_logits[0, best, :rows, :columns] > 0)
