"""The files of an artifact with which a browser decodes masks, in memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from service.manifest import ArtifactFile, Manifest


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file of a served artifact.

    Args:
        described: Name, size and SHA-256 of the file.
        content: Bytes of the file.
    """

    described: ArtifactFile
    content: bytes


def read_model_files(directory: Path, manifest: Manifest) -> Mapping[str, ModelFile]:
    """Read the files that decoding needs.

    Args:
        directory: Folder of the artifact. Its files have been compared with the manifest.
        manifest: Manifest of the artifact.

    Returns:
        Files by part: `prepare`, `decoder`, and `parameters` where the graph of the decoder refers to them. Empty for
        a model whose decoder does not run in a browser.
    """
    if not manifest.decodes_in_browsers:
        return {}
    files = {part: _read(directory, manifest.graphs[part]) for part in ("prepare", "decoder")}
    parameters = manifest.decoder_parameters
    if parameters is not None and parameters.file.encode() in files["decoder"].content:
        files["parameters"] = _read(directory, parameters)
    return files


def _read(directory: Path, file: ArtifactFile) -> ModelFile:
    return ModelFile(file, (directory / file.file).read_bytes())
