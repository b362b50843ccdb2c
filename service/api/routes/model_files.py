"""The graphs that a browser decodes with, by the hash of their bytes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from fastapi import FastAPI
from fastapi import Path as PathParameter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.api.problems import refusal
from service.api.routes.embedding_download import DOWNLOAD_ANSWERS, download
from service.api.schemas import ModelFileModel, ProblemModel
from service.errors import RangeNotSatisfiable
from service.manifest import ArtifactFile, Manifest
from service.telemetry.metrics import Metrics

MODEL_FILE_ROUTE: Final = "/models/files/{sha256}"

# The address names the bytes, so a copy never grows old. Private: whoever passes it on has asked nobody for a key.
_FOR_EVER: Final = "private, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file of the artifact, in memory.

    Args:
        described: what /models says of it.
        content: its bytes.
    """

    described: ModelFileModel
    content: bytes


def read_model_files(directory: Path, manifest: Manifest) -> Mapping[str, ModelFile]:
    """What decoding needs, by part: `prepare`, `decoder`, and `parameters` where the decoder's graph refers to them.

    Args:
        directory: the artifact, whose files have been compared with its manifest.
        manifest: of the served layout.
    """
    files = {part: _read(directory, manifest.graphs[part]) for part in ("prepare", "decoder")}
    parameters = manifest.decoder_parameters
    if parameters is not None and parameters.file.encode() in files["decoder"].content:
        files["parameters"] = _read(directory, parameters)
    return files


def install_model_files(app: FastAPI, files: Mapping[str, ModelFile], metrics: Metrics) -> None:
    """Add `GET /models/files/{sha256}`. No path comes from a request: its hash is looked up among those of `files`."""
    contents = {file.described.sha256: memoryview(file.content) for file in files.values()}
    refuse = refusal(metrics)

    @app.get(
        MODEL_FILE_ROUTE,
        response_class=Response,
        responses={**DOWNLOAD_ANSWERS, **ProblemModel.responses(401, 404, 416, 422, 503)},
        operation_id="model_file",
        summary="What decoding in the browser needs",
        description="The files of which /models tells the hashes under `files`. Single ranges are answered. Who passes "
        "them on is bound by the model's licence.",
    )
    async def read_model_file(
        request: Request,
        sha256: Annotated[str, PathParameter(pattern=r"^[0-9a-f]{64}$", description="Lower-case hex.")],
    ) -> Response:
        content = contents.get(sha256)
        if content is None:
            raise HTTPException(404)
        try:
            return download(content, request.headers, etag=f'"{sha256}"', described={"Cache-Control": _FOR_EVER})
        except RangeNotSatisfiable as error:
            response = await refuse(request, error)
            response.headers["Content-Range"] = f"bytes */{len(content)}"
            return response


def _read(directory: Path, file: ArtifactFile) -> ModelFile:
    described = ModelFileModel(file=file.file, sha256=file.sha256, size_bytes=file.size_bytes)
    return ModelFile(described, (directory / file.file).read_bytes())
