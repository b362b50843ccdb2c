"""Images of Label Studio's tasks: inside the request, in a folder that both can read, or fetched from Label Studio.

A task names its image by an address. `/data/local-files/?d=a/b.jpg` is `a/b.jpg` in the folder, and
`/data/upload/3/c.jpg` is `upload/3/c.jpg`. The server's name and a prefix before these paths are ignored. Only Label
Studio's own data paths are looked up or fetched, in the folders and from the one server that the settings name.

Source: io_storages/urls.py, data_import/urls.py and io_storages/base_models.py of Label Studio 1.23.
"""

import base64
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Final
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

from starlette.requests import Request

from service.api.adapters.exchange import Exchange
from service.api.problems import broken_rule
from service.errors import BodyTooLarge, CacheUnavailable, InvalidRequest
from service.inference.embed import EmbedResult
from service.inference.served_models import ServedModel
from service.regular_files import read_regular_file

_MAX_ADDRESS_BYTES: Final = 4096
# The first bytes of every JPEG in base64. All other values that begin with a slash are addresses.
_JPEG_IN_BASE64: Final = b"/9j/"

_CLOUD_SCHEMES: Final = ("s3", "gs", "azure-blob")

# A labelling session goes through some hundred images. After a while Label Studio is asked again, because its rights
# and the object in a cloud storage may have changed.
_MAX_FETCHED: Final = 1024
_FETCHED_TTL_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class TaskImage:
    """The image of a task.

    Args:
        task_id: Id of the task.
        value: Address, base64 or data: URI.
    """

    task_id: str
    value: bytes

    @property
    def is_address(self) -> bool:
        """Whether the value is an address, and not the image itself."""
        start = self.value[:_MAX_ADDRESS_BYTES]
        if start[:5].lower() == b"data:":
            return False
        return b"://" in start or (start.startswith(b"/") and not start.startswith(_JPEG_IN_BASE64))


@dataclass(frozen=True, slots=True)
class StudioFile:
    """An image that Label Studio keeps.

    Args:
        address: Path and query below Label Studio's own address, without a slash at the start.
        path: Path below a folder of Label Studio's files; None for an object in cloud storage.
    """

    address: str
    path: str | None = None


class TaskImages:
    """Embeds the images of tasks.

    Args:
        exchange: Access of the adapter to the service.
        clock: Monotonic clock, in seconds.
    """

    def __init__(self, exchange: Exchange, clock: Callable[[], float] = monotonic) -> None:
        self._exchange = exchange
        self._clock = clock
        # Images by model, namespace and address, oldest first. It keeps a click from fetching its image again.
        self._fetched: OrderedDict[tuple[str, str, str], tuple[EmbedResult, float]] = OrderedDict()

    async def embed(self, request: Request, image: TaskImage, model: ServedModel) -> EmbedResult:
        """Embed the image of a task.

        Args:
            request: Request that has the task.
            image: Image of the task.
            model: Model that embeds.

        Raises:
            InvalidRequest: The address names no file of Label Studio, or the file cannot be read.
            ImageSourceUnavailable: Label Studio does not give the image.
            ServiceError: Errors of `Exchange.embed`.
        """
        exchange = self._exchange
        if not image.is_address:
            return await exchange.embed(request, image.value, model)
        file = studio_file(image)
        if file is None:
            raise _unreadable("has an address that this service does not fetch.")
        if exchange.files and file.path is not None:
            try:
                return await exchange.embed(request, file.path.encode(), model, self._read)
            except _NotInFoldersError as error:
                if exchange.downloads is None:
                    raise _unreadable("is not a readable file in the folder EDGESAM_LABEL_STUDIO_FILES.") from error
        if exchange.downloads is None and file.path is None:
            raise _unreadable("has an address that this service does not fetch.")
        if exchange.downloads is None:
            raise _unreadable("is a file of Label Studio, and EDGESAM_LABEL_STUDIO_FILES is not set.")
        return await self._embed_fetched(request, file.address, model)

    async def _embed_fetched(self, request: Request, address: str, model: ServedModel) -> EmbedResult:
        assert self._exchange.downloads is not None
        caller = request.state.caller
        key = model.name, caller.namespace, address
        known = self._fetched.get(key)
        if known is not None and known[1] > self._clock():
            with suppress(CacheUnavailable):
                found = await model.embedder.contains(known[0].image_hash, caller)
                if found is not None:
                    request.state.cached = found[0]
                    return replace(known[0], cached=found[0])
        data = await self._exchange.downloads.read(address, request.state.timings)
        result = await self._exchange.embed(request, data, model, bytes)
        self._fetched[key] = result, self._clock() + _FETCHED_TTL_S
        self._fetched.move_to_end(key)
        if len(self._fetched) > _MAX_FETCHED:
            self._fetched.popitem(last=False)
        return result

    def _read(self, path: bytes) -> bytes:
        """Return the content of a file in the first folder that has it. Blocking."""
        limit = self._exchange.limits.max_image_bytes
        data = _read_below(self._exchange.files, path.decode(), limit)
        if len(data) > limit:
            raise BodyTooLarge(f"The image has more than {limit} bytes. Use a smaller file.", extra={"limit": limit})
        return data


def studio_file(image: TaskImage) -> StudioFile | None:
    """Return the image that a task's address stands for; None for an address that is not Label Studio's own.

    Args:
        image: Image whose value is an address.
    """
    try:
        parts = urlsplit(image.value[: _MAX_ADDRESS_BYTES + 1].decode("utf-8", "replace"))
    except ValueError:  # brackets that hold no IPv6 address
        return None
    if len(image.value) > _MAX_ADDRESS_BYTES:
        return None
    if parts.scheme in _CLOUD_SCHEMES:
        return _cloud_object(image)
    if parts.scheme in ("", "http", "https"):
        for pattern, file_at in _OWN_PATHS:
            if found := pattern.search(parts.path):
                return file_at(found, parts)
    return None


def _cloud_object(image: TaskImage) -> StudioFile | None:
    """Return an object of cloud storage by the address at which Label Studio gives it to a task."""
    if not re.fullmatch(r"[0-9]{1,18}", image.task_id):
        return None
    name = base64.urlsafe_b64encode(image.value).decode()
    return StudioFile(f"tasks/{image.task_id}/resolve/?fileuri={quote(name)}")


def _local_file(_: re.Match[str], parts: SplitResult) -> StudioFile:
    path = _parameter(parts, "d")
    return StudioFile(f"data/local-files/?d={quote(path)}", path)


def _upload(found: re.Match[str], _: SplitResult) -> StudioFile | None:
    path = unquote(found[1])
    return None if ".." in path.split("/") else StudioFile(f"data/{quote(path)}", path)


def _stored_upload(_: re.Match[str], parts: SplitResult) -> StudioFile:
    path = _parameter(parts, "filepath")
    return StudioFile(f"storage-data/uploaded/?filepath={quote(path)}", path)


def _resolved_object(found: re.Match[str], parts: SplitResult) -> StudioFile:
    return StudioFile(f"{found[1]}/resolve/?fileuri={quote(_parameter(parts, 'fileuri'), safe='')}")


def _parameter(parts: SplitResult, name: str) -> str:
    """Return a parameter of the query. Of several the last counts, as in Label Studio."""
    return parse_qs(parts.query).get(name, [""])[-1]


# The paths at which Label Studio serves images. `presign` is the older name of `resolve`.
_OWN_PATHS: Final = (
    (re.compile(r"/data/local-files/?$"), _local_file),
    (re.compile(r"/data/(upload/.+)$"), _upload),
    (re.compile(r"/storage-data/uploaded/?$"), _stored_upload),
    (re.compile(r"/((?:tasks|projects)/[0-9]{1,18})/(?:resolve|presign)/?$"), _resolved_object),
)


def _read_below(folders: Sequence[Path], relative: str, max_bytes: int) -> bytes:
    for folder in folders:
        with suppress(OSError, ValueError, RuntimeError):  # missing, a null byte, links in a circle
            path = (folder / relative).resolve(strict=True)
            if path.is_relative_to(folder.resolve()):
                return read_regular_file(path, max_bytes, follows_links=False)  # links were resolved before
    raise _NotInFoldersError


def _unreadable(reason: str) -> InvalidRequest:
    return broken_rule(
        "/tasks/0/data",
        f"the image {reason} Import tasks with data: URIs, or set EDGESAM_LABEL_STUDIO_FILES to the folder of Label "
        "Studio's local files or uploads, or EDGESAM_LABEL_STUDIO_URL to its address.",
    )


class _NotInFoldersError(Exception):
    """No folder has the file."""
