"""Makes an artifact from somebody's ONNX encoder and the decoder of a SAM checkpoint. Needs no torch.

What such encoders take and give: docs/explanation/sam-family.md.
"""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx

from model_store.architectures import ARCHITECTURES, Architecture, ImageSize, architecture
from model_store.checkpoint_files.comparison import check_arrays, check_finite, used_keys
from model_store.checkpoint_files.errors import CheckpointError
from model_store.checkpoint_files.expected import DECODER, ENCODER, part_arrays
from model_store.checkpoint_files.reading import CheckpointFile, read_checkpoint
from model_store.checkpoint_files.recognition import recognise
from model_store.command_errors import printable
from model_store.export.answers import answers
from model_store.export.convert import opset_of, write_click_graphs
from model_store.export.encoder_wrapping import InputLayout, wrapped_encoder
from model_store.export.manifest_file import manifest_text
from model_store.export.manifest_making import MadeFiles, made_manifest
from model_store.export.model_info import ModelInfo
from model_store.export.output_folder import check_output_folder, move_to_output_folder
from model_store.export.skeletons.filling import Weights
from service.manifest import MANIFEST_NAME, Manifest

# A layer norm ends all encoders of the family, so the channels of a token spread by about 1.
_USUAL_SPREAD = (0.2, 5.0)
_DECODER_ALONE = "sam-vit-h"
_DECODER_NAME = "a decoder of the SAM family"


def convert_encoder(
    encoder: Path,
    decoder: Path,
    directory: Path,
    *,
    name: str,
    info: ModelInfo,
    image_size: ImageSize | None = None,
    input_layout: InputLayout = "frame",
    architecture_name: str | None = None,
    weights: Weights = "float16",
    on_progress: Callable[[str], None] = lambda _: None,
    on_warning: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Write `directory`/{*.onnx, decoder.npz, manifest.json}; an artifact already there is replaced at the end.

    Args:
        encoder: ONNX file of an encoder whose output is (B, 256, 64, 64).
        decoder: Checkpoint of the same model, whole or its prompt encoder and mask decoder alone.
        directory: Folder of the artifact, see `check_output_folder`; made with its parents.
        name: Name of the model in the manifest and in /models.
        info: Facts that the files do not show.
        image_size: Side of the encoder's input, 512 or 1024 pixels. None: the one that the graph states.
        input_layout: What the encoder takes: `frame` is normalised and padded, `image` has pixel values of 0 to 255,
            and the graph normalises and pads.
        architecture_name: Architecture whose decoder, score and choice of masks the model has. None: that of the
            checkpoint, and SAM's for a decoder alone.
        weights: Number format of the decoder's large arrays; the encoder stays as it is.
        on_progress: Callback that receives each step as a short text.
        on_warning: Callback that receives what is unusual and may be a mistake.

    Returns:
        The manifest.

    Raises:
        OSError: A file cannot be read or written.
        UsageError: `directory` exists and is neither empty nor an artifact.
        ModelStoreError: The encoder has other inputs or outputs (EncoderError), the checkpoint has no decoder of the
            family (CheckpointError), or a graph does not run (AnswerError).
    """
    check_output_folder(directory, force=True)
    directory = directory.resolve()
    file_name = Path(printable(encoder.name))  # names of files may hold bytes that are no text
    on_progress(f"reading {decoder}")
    file, entry = _decoder(decoder, architecture_name)
    on_progress(f"reading {encoder}")
    graph = wrapped_encoder(encoder, image_size=image_size, input_layout=input_layout, on_progress=on_progress)
    if not _USUAL_SPREAD[0] <= graph.spread <= _USUAL_SPREAD[1]:
        on_warning(
            f"the encoder's outputs for a grey image spread by {graph.spread:.2g}, not by about 1: "
            "check --input-layout and --image-size"
        )
    if not graph.is_batched:
        on_warning("the encoder takes one image at a time, so images that arrive together wait for each other")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as scratch:
        folder = Path(scratch) / "artifact"
        folder.mkdir()
        on_progress("writing the graphs")
        onnx.save(graph.model, str(folder / "encoder.onnx"))
        click_graphs, archive = write_click_graphs(file.arrays, entry.norm_epsilon, folder, weights)
        graphs = {"encoder": folder / "encoder.onnx", **click_graphs}
        on_progress("running the graphs")
        answers(graphs, graph.image_size)
        entry = dataclasses.replace(
            entry, title=f"the encoder {file_name} with the decoder of {entry.title}",
            image_size=graph.image_size, summary="",
        )  # fmt: skip
        files = MadeFiles(graphs, archive, "served", weights, opset_of(graph.model), ("onnx", "onnxruntime"))
        manifest = made_manifest(entry, files, name=name, info=info, encoder=file_name.stem[:80], upsample_mode=None)
        (folder / MANIFEST_NAME).write_text(manifest_text(manifest), encoding="utf-8")
        on_progress("writing")
        move_to_output_folder(folder, directory)
    return manifest


def _decoder(path: Path, architecture_name: str | None) -> tuple[CheckpointFile, Architecture]:
    """Return the arrays of prompt encoder and mask decoder, and the architecture that they belong to.

    Raises:
        CheckpointError: The file has none, or they are not the family's.
    """
    file = read_checkpoint(path)
    try:
        name = architecture_name or file.architecture
        if name is not None:
            entry = architecture(name)
        elif any(key.startswith(ENCODER) for key in file.tensors):
            entry = recognise(file.shapes)
        else:
            entry = ARCHITECTURES[_DECODER_ALONE]
        tensors = {key: tensor for key, tensor in file.tensors.items() if not key.startswith(ENCODER)}
        check_arrays(part_arrays(DECODER), tensors, _DECODER_NAME, others=file.others)
        kept = CheckpointFile(tensors)
        check_finite(kept.arrays, used_keys(tensors), _DECODER_NAME)
    except (CheckpointError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return kept, entry
