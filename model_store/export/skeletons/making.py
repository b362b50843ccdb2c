"""Makes skeletons from the networks in PyTorch, and the lists of keys that go with them. Only releases need this."""

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper

from model_store.architectures import ARCHITECTURES, Architecture
from model_store.checkpoint_files.expected import (
    ENCODER,
    decoder_file_name,
    encoder_file_name,
    is_unused,
    keys_file,
)
from model_store.export.onnx_export import export_graph
from model_store.export.served_graphs import TraceableGraph, decoder_graph, encoder_graph, prepare_graph
from model_store.export.skeletons.files import PREPARE, decoder_skeleton, skeleton_file, write_compressed
from model_store.network.architectures import ENCODERS
from model_store.network.model import PromptableModel, build_model


def made_files(names: list[str]) -> Iterator[tuple[Path, bytes]]:
    """Return all files of some architectures: keys and graphs of their encoders, and those of the decoder.

    Args:
        names: Names of architectures that have a network.

    Yields:
        The path of a file, and its content before it is compressed.
    """
    done: set[Path] = set()
    for name in names:
        entry = ARCHITECTURES[name]
        model = None
        for path, make in _files_of(entry).items():
            if path not in done:
                model = model or _varied_model(name)
                yield path, make(model)
                done.add(path)


def write_skeletons(names: list[str], on_progress: Callable[[str], None]) -> list[Path]:
    """Write the files of some architectures into this package, and return their paths.

    Args:
        names: Names of architectures; empty for all that have a network.
        on_progress: Callback that receives each step as a short text.
    """
    paths = []
    for path, content in made_files(names or list(ENCODERS)):
        on_progress(f"writing {path.name}")
        write_compressed(path, content)
        paths.append(path)
    return paths


def skeleton(graph: TraceableGraph, model: PromptableModel) -> onnx.ModelProto:
    """Trace a graph and return it without weights. Constants that are no weights stay in it.

    Args:
        graph: Graph of `model`.
        model: Model in training form whose arrays are all different, so that the exporter does not merge them.
    """
    with tempfile.TemporaryDirectory() as folder:
        export_graph(graph, Path(folder) / "skeleton.onnx", has_weights=False)
        proto = onnx.load(Path(folder) / "skeleton.onnx")
    weights, constants = model.state_dict(), dict(graph.module.named_buffers())
    free = {*graph.inputs, *weights}
    for value in [value for value in proto.graph.input if value.name not in free]:
        proto.graph.initializer.append(numpy_helper.from_array(constants[value.name].numpy(), value.name))
        proto.graph.input.remove(value)
    proto.producer_version = ""  # the same graph gives the same file with every version of torch
    return proto


def _files_of(entry: Architecture) -> dict[Path, Callable[[PromptableModel], bytes]]:
    """Return the functions that make the files of an architecture, by path."""
    part = encoder_file_name(entry)
    files: dict[Path, Callable[[PromptableModel], bytes]] = {
        keys_file(part): lambda model: _keys(model, of_encoder=True),
        keys_file(decoder_file_name(entry)): lambda model: _keys(model, of_encoder=False),
        skeleton_file(part): lambda model: _content(encoder_graph(model), model),
        skeleton_file(decoder_skeleton(entry)): lambda model: _content(decoder_graph(model), model),
    }
    if entry.mask_decoder == "sam":
        # SAM 2's family has the same graph, but the exporter numbers its values differently.
        files[skeleton_file(PREPARE)] = lambda model: _content(prepare_graph(model), model)
    return files


def _content(graph: TraceableGraph, model: PromptableModel) -> bytes:
    content: bytes = skeleton(graph, model).SerializeToString(deterministic=True)
    return content


def _keys(model: PromptableModel, *, of_encoder: bool) -> bytes:
    """Return number formats and shapes by key, as JSON."""
    content = {
        key: [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        for key, tensor in model.state_dict().items()
        if key.startswith(ENCODER) == of_encoder and not is_unused(key)
    }
    return json.dumps(content, separators=(",", ":")).encode()


def _varied_model(name: str) -> PromptableModel:
    """Return a model whose arrays are all different, in eval mode. Initial norms, for instance, are all ones."""
    model = build_model(name).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5, generator=generator)
    return model
