"""Exports a network as an artifact: ONNX graphs, decoder parameters and the manifest that describes them.

The graphs are compared with torch before anything appears under its final name.
"""

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from model_store.checkpoint_files.rounding import rounded
from model_store.errors import UsageError
from model_store.export.answers import rounding_effect
from model_store.export.graphs.encoder import PROPOSALS
from model_store.export.manifest_file import manifest_text
from model_store.export.manifest_making import MadeFiles, made_manifest
from model_store.export.model_info import ModelInfo
from model_store.export.onnx_export import write_official_graphs, write_served_graphs
from model_store.export.output_folder import check_output_folder, move_to_output_folder
from model_store.export.parity import official_parity, served_parity, torch_outputs
from model_store.export.served_graphs import OPSET
from model_store.export.weight_storage import (
    float16_arrays,
    store_float16,
    write_decoder_parameters,
)
from model_store.network.granularity_module import GranularityModule
from model_store.network.model import PromptableModel
from service.manifest import MANIFEST_NAME, GranularityInfo, Manifest

MAX_PARITY_ERROR = 1e-3

Layout = Literal["served", "official"]
Weights = Literal["float16", "float32"]
OnProgress = Callable[[str], None]


class ParityError(RuntimeError):
    """The outputs of the exported graphs differ from torch's; nothing was written."""


@dataclass(frozen=True, slots=True)
class _Files:
    """Files of an artifact, in a scratch folder."""

    graphs: Mapping[str, Path]
    decoder_parameters: Path | None


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Differences by output name: of ONNX Runtime from torch, and of rounded weights from exact ones."""

    parity: dict[str, float]
    rounding: dict[str, float]


def export_model(
    model: PromptableModel,
    directory: Path,
    *,
    name: str,
    info: ModelInfo,
    granularity: GranularityModule | None = None,
    layout: Layout = "served",
    weights: Weights = "float16",
    on_progress: OnProgress = lambda _: None,
) -> Manifest:
    """Write `directory`/{*.onnx, manifest.json}; an artifact already there is replaced at the end.

    Args:
        model: Model in training form, as loaded; it is not changed.
        directory: Folder of the artifact, see `check_output_folder`; made with its parents.
        name: Name of the model in the manifest and in /models.
        info: Facts that the weights do not show.
        granularity: Granularity module for this very encoder. The encoder graph then returns boxes beside its tokens.
            The module's weights stay float32, 2 MB. Only for the served layout.
        layout: Set of graphs: `served` for this service's three, `official` for EdgeSAM's pair
            (docs/explanation/model.md, section 5.3), which other tools read.
        weights: Number format of tensors of 4096 elements and more. `float16` makes the files half as large. The
            graphs still compute in float32, from weights that were rounded once. The manifest states the effect.
        on_progress: Callback that receives each step as a short text.

    Raises:
        UsageError: `directory` exists and is neither empty nor an artifact, the layout has no granularity module, or
            the architecture has no official layout.
        ParityError: ONNX Runtime and torch differ by more than 1e-3 somewhere.
    """
    if granularity is not None and layout != "served":
        raise UsageError("the official layout has no granularity module; export the served layout")
    if layout == "official" and model.architecture.mask_decoder != "sam":
        raise UsageError(
            f"{model.architecture.title} has no official layout, because its decoder reads three maps of an image; "
            "export the served layout"
        )
    check_output_folder(directory, force=True)
    directory = directory.resolve()  # `.` has no name that a folder could be renamed to
    on_progress("merging branches")
    exact = model.deploy().eval()
    stored = _rounded(exact) if weights == "float16" else exact
    module = None if granularity is None else copy.deepcopy(granularity).eval()
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as scratch:
        folder = Path(scratch) / "artifact"
        folder.mkdir()
        files = _write_files(stored, module, folder, name=name, layout=layout, weights=weights, on_progress=on_progress)
        comparison = _compare(exact, stored, module, files, layout=layout, weights=weights, on_progress=on_progress)
        manifest = _manifest(
            model, files, comparison, name=name, info=info, layout=layout, weights=weights,
            has_granularity=module is not None,
        )  # fmt: skip
        (folder / MANIFEST_NAME).write_text(manifest_text(manifest), encoding="utf-8")
        on_progress("writing")
        move_to_output_folder(folder, directory)
    return manifest


def _write_files(
    model: PromptableModel,
    module: GranularityModule | None,
    folder: Path,
    *,
    name: str,
    layout: Layout,
    weights: Weights,
    on_progress: OnProgress,
) -> _Files:
    parameters: Path | None = None
    if layout == "served":
        graphs = write_served_graphs(model, module, folder, on_progress)
        parameters = write_decoder_parameters(_arrays(model), folder / "decoder.npz", weights)
    else:
        graphs = write_official_graphs(model, folder, name, on_progress)
    if weights == "float16":
        shared = {} if parameters is None else float16_arrays(parameters)
        for graph, path in graphs.items():
            # Browsers load the decoder with the archive, and the prepare graph without it.
            store_float16(path, shared if graph == "decoder" else {})
    return _Files(graphs, parameters)


def _rounded(model: PromptableModel) -> PromptableModel:
    """Return a copy whose parameters of 4096 elements and more are float16 numbers held in float32."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.copy_(torch.from_numpy(rounded(parameter.numpy()).astype(np.float32)))
    return copied


def _arrays(model: PromptableModel) -> dict[str, NDArray[Any]]:
    return {key: tensor.numpy() for key, tensor in model.state_dict().items()}


def _compare(
    exact: PromptableModel,
    stored: PromptableModel,
    module: GranularityModule | None,
    files: _Files,
    *,
    layout: Layout,
    weights: Weights,
    on_progress: OnProgress,
) -> _Comparison:
    """Compare the graphs with torch, and rounded weights with exact ones.

    Raises:
        ParityError: ONNX Runtime and torch differ by more than 1e-3 somewhere.
    """
    on_progress("comparing with torch")
    compare = served_parity if layout == "served" else official_parity
    reference = torch_outputs(stored, module)
    parity = compare(reference, files.graphs)
    if not all(difference <= MAX_PARITY_ERROR for difference in parity.values()):  # a NaN fails, too
        raise ParityError(f"ONNX Runtime differs from torch by more than {MAX_PARITY_ERROR}: {parity}")
    if weights == "float32":
        return _Comparison(parity, {})
    on_progress("measuring the effect of float16 weights")
    return _Comparison(parity, rounding_effect(torch_outputs(exact).answers, reference.answers))


def _manifest(
    model: PromptableModel,
    files: _Files,
    comparison: _Comparison,
    *,
    name: str,
    info: ModelInfo,
    layout: Layout,
    weights: Weights,
    has_granularity: bool,
) -> Manifest:
    encoder = model.image_encoder
    granularity = GranularityInfo(proposals=PROPOSALS, source_sha256=info.granularity_sha256)
    made = MadeFiles(
        files.graphs, files.decoder_parameters, layout, weights, max(OPSET, encoder.opset),
        ("torch", "onnx", "onnxruntime"), comparison.parity, comparison.rounding,
    )  # fmt: skip
    return made_manifest(
        model.architecture,
        made,
        name=name,
        info=info,
        encoder=encoder.name,
        upsample_mode=encoder.upsample_mode,
        granularity=granularity if has_granularity else None,
    )
