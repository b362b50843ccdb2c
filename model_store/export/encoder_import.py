"""Makes an artifact from somebody's ONNX encoder and the decoder of a SAM checkpoint. Needs no torch.

What such encoders take and give: docs/explanation/sam-family.md.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx

from model_store.architectures import ARCHITECTURES, Architecture, ImageSize, MaskDecoder, architecture
from model_store.checkpoint_files.comparison import check_arrays, check_finite, used_keys
from model_store.checkpoint_files.errors import CheckpointError
from model_store.checkpoint_files.expected import ENCODER, decoder_file_name, part_arrays, video_arrays
from model_store.checkpoint_files.reading import CheckpointFile, read_checkpoint
from model_store.checkpoint_files.recognition import recognise
from model_store.checkpoint_files.sam2_names import official_name, our_name
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

# A layer norm ends all encoders of SAM's family, so the channels of a token spread by about 1. SAM 2's have no norm.
_USUAL_SPREAD = (0.2, 5.0)
# Architectures whose rules a decoder without encoder gets.
_DECODER_ALONE: Mapping[MaskDecoder, str] = {"sam": "sam-vit-h", "sam2": "sam2.1-large"}
_DECODER_NAME: Mapping[MaskDecoder, str] = {
    "sam": "a decoder of the SAM family", "sam2": "a decoder of the SAM 2 family"
}  # fmt: skip
_ONLY_SAM2 = "mask_decoder.obj_score_token.weight"


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
        encoder: ONNX file of an encoder whose output is (B, 256, 64, 64). For a decoder of SAM 2's family there are
            two more outputs, (B, 64, 128, 128) and (B, 32, 256, 256), in any order and under any names.
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
    graph = wrapped_encoder(
        encoder, entry.mask_decoder, image_size=image_size, input_layout=input_layout, on_progress=on_progress
    )
    if entry.mask_decoder == "sam" and not _USUAL_SPREAD[0] <= graph.spread <= _USUAL_SPREAD[1]:
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
        click_graphs, archive = write_click_graphs(file.arrays, entry, folder, weights)
        graphs = {"encoder": folder / "encoder.onnx", **click_graphs}
        entry = dataclasses.replace(
            entry, title=f"the encoder {file_name} with the decoder of {entry.title}",
            image_size=graph.image_size, summary="",
        )  # fmt: skip
        on_progress("running the graphs")
        answers(graphs, entry)
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
        entry = _architecture(file, architecture_name)
        kind = entry.mask_decoder
        expected = part_arrays(decoder_file_name(entry))
        others = video_arrays(entry)
        tensors = {
            name: tensor
            for key, tensor in file.tensors.items()
            if not (name := our_name(key)).startswith(ENCODER) and key not in others
        }
        named = official_name if kind == "sam2" else str  # messages have the names of the file
        check_arrays(
            {named(key): array for key, array in expected.items()},
            {named(key): tensor for key, tensor in tensors.items()},
            _DECODER_NAME[kind],
            others=file.others,
        )
        kept = CheckpointFile(tensors)
        check_finite(kept.arrays, used_keys(tensors), _DECODER_NAME[kind])
    except (CheckpointError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return kept, entry


def _architecture(file: CheckpointFile, stated: str | None) -> Architecture:
    """Return the architecture of a file: the one that is stated, that it states itself, or that its keys show."""
    if (name := stated or file.architecture) is not None:
        return architecture(name)
    keys = {our_name(key) for key in file.tensors}
    if any(key.startswith(ENCODER) for key in keys):
        return recognise(file.shapes)
    return ARCHITECTURES[_DECODER_ALONE["sam2" if _ONLY_SAM2 in keys else "sam"]]
