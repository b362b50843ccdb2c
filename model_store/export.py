"""Turns a checkpoint's network into an artifact: ONNX graphs and the manifest that describes them.

The export checks itself against torch before anything appears under its final name.
"""

import copy
import hashlib
import importlib.metadata
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import onnx
import torch
from torch import Tensor, nn

from model_store.catalog import UsageError
from model_store.graphs import (
    IMAGE_TOKENS,
    PROPOSALS,
    DecoderGraph,
    EncoderGraph,
    PrepareGraph,
    ProposingEncoderGraph,
)
from model_store.manifest_file import manifest_text
from model_store.model_info import ModelInfo
from model_store.network.granularity_module import GranularityModule
from model_store.network.model import PIXEL_MEAN, PIXEL_STD, PromptableModel
from model_store.network.official import OfficialDecoder, OfficialEncoder
from model_store.parity import official_parity, rounding_effect, served_parity, torch_answers
from model_store.storage import rounded, shared_arrays, store_float16, write_decoder_parameters
from model_store.target import check_target, put_in_place
from service.manifest import (
    GRAPH_NAMES,
    MANIFEST_NAME,
    STATE_NAMES,
    ArtifactFile,
    GranularityInfo,
    Manifest,
    Ranking,
)

OPSET = 17
MAX_PARITY_ERROR = 1e-3


class ParityError(RuntimeError):
    """The exported graphs do not answer what torch answers; nothing was written."""


def export_model(
    model: PromptableModel,
    directory: Path,
    *,
    name: str,
    info: ModelInfo,
    granularity: GranularityModule | None = None,
    layout: Literal["served", "official"] = "served",
    weights: Literal["float16", "float32"] = "float16",
    progress: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Write `directory`/{*.onnx, manifest.json}; an artifact already there is replaced at the end.

    Args:
        model: in training form, as loaded; it is not changed.
        directory: the artifact's folder, see `check_target`; made with its parents.
        name: the model's name in the manifest and in /models.
        info: what cannot be seen in the weights.
        granularity: proposes boxes on this very encoder, which then answers them beside its tokens; its weights stay
            float32, 2 MB. For the served layout.
        layout: `served` for this service's three graphs, `official` for EdgeSAM's pair (docs/explanation/model.md,
            section 5.3), which other tools read.
        weights: what tensors of 4096 elements and more are stored in. `float16` halves the files; the graphs
            still compute in float32, from weights rounded once, and the manifest says what the rounding changes.
        progress: is told each step in a few words.

    Raises:
        UsageError: `directory` is there and is neither empty nor an artifact.
        ParityError: ONNX Runtime and torch differ by more than 1e-3 somewhere.
    """
    if granularity is not None and layout != "served":
        raise UsageError("the official layout has no place for the granularity module; export the served one")
    check_target(directory, force=True)
    directory = directory.resolve()  # `.` has no name that a folder could be renamed to
    progress("merging branches")
    plain = model.deploy().eval()
    served = rounded(plain) if weights == "float16" else plain
    module = None if granularity is None else copy.deepcopy(granularity).eval()
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as scratch:
        folder = Path(scratch) / "artifact"
        folder.mkdir()
        if layout == "served":
            files = _write_served(served, module, folder, progress)
        else:
            files = _write_official(served, folder, name, progress)
        parameters: Path | None = None
        if layout == "served":
            parameters = write_decoder_parameters(served, folder / "decoder.npz", weights)
        if weights == "float16":
            shared = {} if parameters is None else shared_arrays(parameters)
            for path in files.values():
                store_float16(path, shared)
        progress("comparing with torch")
        check = served_parity if layout == "served" else official_parity
        answers = torch_answers(served, module)
        parity = check(answers, files)
        if not all(difference <= MAX_PARITY_ERROR for difference in parity.values()):  # a NaN fails, too
            raise ParityError(f"ONNX Runtime differs from torch by more than {MAX_PARITY_ERROR}: {parity}")
        rounding: dict[str, float] = {}
        if weights == "float16":
            progress("measuring what float16 weights change")
            rounding = rounding_effect(torch_answers(plain), answers)
        manifest = Manifest(
            format_version=Manifest.lowest_version(
                encoder=model.image_encoder.name,
                ranking=Ranking(),
                upsample_mode=model.image_encoder.upsample_mode,
                has_granularity=module is not None,
            ),
            name=name,
            architecture=model.architecture.title,
            encoder=model.image_encoder.name,
            layout=layout,
            image_size=1024,
            mean=PIXEL_MEAN,
            std=PIXEL_STD,
            mask_threshold=0.0,
            upsample_mode=model.image_encoder.upsample_mode,
            graphs={key: _artifact_file(path) for key, path in files.items()},
            decoder_parameters=None if parameters is None else _artifact_file(parameters),
            granularity=None
            if module is None
            else GranularityInfo(proposals=PROPOSALS, source_sha256=info.granularity_sha256),
            opset=OPSET,
            precision="float32",
            weights=weights,
            source_sha256=info.source_sha256,
            licence=info.licence,
            trained=info.trained,
            training_data=info.training_data,
            measured=info.measured,
            notes=info.notes,
            parity=parity,
            rounding=rounding,
            tools={tool: importlib.metadata.version(tool) for tool in ("torch", "onnx", "onnxruntime")},
        )
        (folder / MANIFEST_NAME).write_text(manifest_text(manifest), encoding="utf-8")
        progress("writing")
        put_in_place(folder, directory)
    return manifest


def _write_served(
    model: PromptableModel, module: GranularityModule | None, folder: Path, progress: Callable[[str], None]
) -> dict[str, Path]:
    tokens = torch.zeros(IMAGE_TOKENS, 256)
    mask_logits, has_mask = torch.zeros(2, 256, 256), torch.tensor([False, True])
    prepare = PrepareGraph(model)
    with torch.inference_mode():
        state = prepare(tokens, mask_logits, has_mask)
    points, labels = torch.zeros(2, 3, 2), torch.tensor([[1, 0, -1], [2, 3, -3]])
    per_state = {name: {0: "states"} for name in STATE_NAMES}
    files = {name: folder / f"{name}.onnx" for name in GRAPH_NAMES}
    progress("exporting the encoder")
    outputs = ["tokens"] if module is None else ["tokens", "boxes", "scores"]
    encoder = EncoderGraph(model) if module is None else ProposingEncoderGraph(model, module)
    _export(encoder, (torch.zeros(1, 3, 1024, 1024),), files["encoder"], ["image"], outputs,
            {name: {0: "pictures"} for name in ("image", *outputs)})  # fmt: skip
    progress("exporting prepare")
    _export(prepare, (tokens, mask_logits, has_mask), files["prepare"], ["tokens", "mask_logits", "has_mask"],
            STATE_NAMES, {"mask_logits": {0: "states"}, "has_mask": {0: "states"}, **per_state})  # fmt: skip
    progress("exporting the decoder")
    outputs = ["mask_logits", "iou_predictions", "stability"]
    axes = {"points": {0: "prompts", 1: "points"}, "labels": {0: "prompts", 1: "points"}, **per_state}
    _export(DecoderGraph(model), (points, labels, *state), files["decoder"], ["points", "labels", *STATE_NAMES],
            outputs, {**axes, **{output: {0: "prompts"} for output in outputs}})  # fmt: skip
    return files


def _write_official(
    model: PromptableModel, folder: Path, name: str, progress: Callable[[str], None]
) -> dict[str, Path]:
    files = {part: folder / f"{name}_{part}.onnx" for part in ("encoder", "decoder")}
    progress("exporting the official encoder")
    _export(OfficialEncoder(model), (torch.zeros(1, 3, 1024, 1024),), files["encoder"],
            ["image"], ["image_embeddings"], {})  # fmt: skip
    progress("exporting the official decoder")
    _export(OfficialDecoder(model, use_stability_score=True),
            (torch.zeros(1, 256, 64, 64), torch.zeros(1, 2, 2), torch.ones(1, 2)), files["decoder"],
            ["image_embeddings", "point_coords", "point_labels"], ["scores", "masks"],
            {"point_coords": {1: "num_points"}, "point_labels": {1: "num_points"}})  # fmt: skip
    return files


def _export(
    module: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic_axes: Mapping[str, Mapping[int, str]],
) -> None:
    with warnings.catch_warnings(), torch.inference_mode():
        # The tracing exporter is deprecated in favour of the dynamo one, which needs one more dependency and names
        # the same graph's nodes differently from release to release; tracer warnings speak of shapes fixed by design.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), example, str(path), input_names=list(inputs), output_names=list(outputs),
            dynamic_axes={key: dict(axes) for key, axes in dynamic_axes.items()}, opset_version=OPSET, dynamo=False,
        )  # fmt: skip
    onnx.checker.check_model(str(path))


def _artifact_file(path: Path) -> ArtifactFile:
    data = path.read_bytes()
    return ArtifactFile(file=path.name, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
