"""Makes artifacts from checkpoints of the SAM family with NumPy, ONNX and ONNX Runtime alone, without torch.

The graphs were traced from the networks at the release (`skeletons`); a conversion puts the arrays of the checkpoint
into them. That the result equals an export by torch is tested for every architecture.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from model_store.architectures import DEFAULT_ARCHITECTURE, Architecture
from model_store.checkpoint_files.checked import CheckedCheckpoint, checked_checkpoint
from model_store.checkpoint_files.expected import encoder_file_name
from model_store.export.answers import answers, rounding_effect
from model_store.export.manifest_file import manifest_text
from model_store.export.manifest_making import MadeFiles, made_manifest
from model_store.export.model_info import ModelInfo
from model_store.export.output_folder import check_output_folder, move_to_output_folder
from model_store.export.skeletons.files import PREPARE, decoder_skeleton, read_skeleton
from model_store.export.skeletons.filling import Weights, write_exact, write_filled
from model_store.export.weight_storage import archived_arrays, write_decoder_parameters
from service.manifest import MANIFEST_NAME, Manifest

Arrays = Mapping[str, NDArray[Any]]
OnProgress = Callable[[str], None]


def convert_checkpoint(
    path: Path,
    directory: Path,
    *,
    name: str,
    info: ModelInfo,
    architecture: str | None = None,
    weights: Weights = "float16",
    on_progress: OnProgress = lambda _: None,
) -> Manifest:
    """Write `directory`/{*.onnx, decoder.npz, manifest.json}; an artifact already there is replaced at the end.

    Each graph is run before anything appears under its final name.

    Args:
        path: Checkpoint file of any model of the family, see `read_checkpoint`.
        directory: Folder of the artifact, see `check_output_folder`; made with its parents.
        name: Name of the model in the manifest and in /models.
        info: Facts that the weights do not show.
        architecture: Name of the architecture; needed for TinySAM, whose files look like MobileSAM's. None: the one
            that the file states, or that its keys show.
        weights: Number format of arrays of 4096 elements and more in the files; the graphs compute in float32.
        on_progress: Callback that receives each step as a short text.

    Returns:
        The manifest.

    Raises:
        OSError: A file cannot be read or written.
        UsageError: `directory` exists and is neither empty nor an artifact.
        ModelStoreError: The checkpoint is damaged, of another family or does not fit its architecture
            (CheckpointError), or a graph does not run (AnswerError).
    """
    check_output_folder(directory, force=True)
    directory = directory.resolve()  # `.` has no name that a folder could be renamed to
    on_progress(f"reading {path}")
    checkpoint = checked_checkpoint(path, architecture)
    on_progress(f"it is {checkpoint.architecture.title}")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as scratch:
        folder = Path(scratch) / "artifact"
        folder.mkdir()
        files = _made_files(checkpoint, folder, Path(scratch), weights, on_progress)
        entry = checkpoint.architecture
        manifest = made_manifest(
            entry,
            files,
            name=name,
            info=info,
            encoder=entry.encoder,
            # Only EdgeSAM's encoder has the choice, and the graph has its authors' mode.
            upsample_mode="bicubic" if entry.name == DEFAULT_ARCHITECTURE else None,
        )
        (folder / MANIFEST_NAME).write_text(manifest_text(manifest), encoding="utf-8")
        on_progress("writing")
        move_to_output_folder(folder, directory)
    return manifest


def write_click_graphs(
    arrays: Arrays, architecture: Architecture, folder: Path, weights: Weights
) -> tuple[dict[str, Path], Path]:
    """Write the graphs `prepare` and `decoder` and the archive of the decoder's parameters.

    `decoder.onnx` refers to the numbers in the archive. `prepare.onnx` does not, because browsers load it alone.

    Args:
        arrays: Arrays of prompt encoder and mask decoder by key, and possibly others.
        architecture: Architecture of the arrays.
        folder: Folder of the files.
        weights: Number format of large arrays.

    Returns:
        Paths of the graphs by name, and of the archive.
    """
    archive = write_decoder_parameters(arrays, folder / "decoder.npz", weights)
    prepare = write_filled(read_skeleton(PREPARE), arrays, folder / "prepare.onnx", weights=weights)
    decoder = write_filled(
        read_skeleton(decoder_skeleton(architecture)),
        arrays,
        folder / "decoder.onnx",
        weights=weights,
        stored=archived_arrays(archive),
    )
    return {"prepare": prepare, "decoder": decoder}, archive


def _made_files(
    checkpoint: CheckedCheckpoint, folder: Path, scratch: Path, weights: Weights, on_progress: OnProgress
) -> MadeFiles:
    """Write all files into a folder, run each graph, and measure the effect of rounded weights."""
    entry, arrays = checkpoint.architecture, checkpoint.arrays
    exact = None
    if weights == "float16":
        on_progress("measuring with float32 weights")
        with tempfile.TemporaryDirectory(dir=scratch) as exact_folder:
            exact = answers(_exact_graphs(entry, arrays, Path(exact_folder)), entry)
    on_progress("writing the graphs")
    encoder = read_skeleton(encoder_file_name(entry))
    opset = opset_of(encoder)
    graphs = {"encoder": write_filled(encoder, arrays, folder / "encoder.onnx", weights=weights)}
    del encoder  # it holds all weights
    click_graphs, archive = write_click_graphs(arrays, entry, folder, weights)
    graphs |= click_graphs
    on_progress("running the graphs")
    found = answers(graphs, entry)
    rounding = {} if exact is None else rounding_effect(exact, found)
    return MadeFiles(graphs, archive, "served", weights, opset, ("onnx", "onnxruntime"), rounding=rounding)


def _exact_graphs(entry: Architecture, arrays: Arrays, folder: Path) -> dict[str, Path]:
    skeletons = {
        "encoder": encoder_file_name(entry),
        "prepare": PREPARE,
        "decoder": decoder_skeleton(entry),
    }
    return {
        graph: write_exact(read_skeleton(name), arrays, folder / f"{graph}.onnx") for graph, name in skeletons.items()
    }


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators in a graph."""
    return max(int(entry.version) for entry in model.opset_import if entry.domain in {"", "ai.onnx"})
