"""Reads PyTorch's archives (`.pt`, `.pth`) without torch: a ZIP file with a pickle and one member for each storage."""

import io
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.checkpoint_files.errors import CheckpointError, first_line
from model_store.checkpoint_files.pickled import MAX_PICKLE_BYTES, RESAVE, read_pickle
from model_store.checkpoint_files.stored_tensor import STORED_TYPES, Storage

MAX_DIRECTORY_BYTES = 4 * 2**20
"""Largest directory of the archive. That of the largest model of the family has 0.2 MB."""

_ZIP_SIGNATURE = b"PK"
_LITTLE = b"little"
_LOCAL_HEADER = struct.Struct("<4s22xHH")
# The pickle of a large integer, with which torch's files of before version 1.6 begin.
_LEGACY_SIGNATURE = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_PICKLE_SIGNATURE = b"\x80"


def read_torch_file(path: Path) -> object:
    """Return the content of a PyTorch archive: containers, numbers, texts and `StoredTensor`.

    Args:
        path: The file. Its arrays are memory-mapped: they take memory when their numbers are used.

    Raises:
        OSError: The file cannot be read.
        CheckpointError: The file is no such archive, is damaged, or contains more than arrays and plain containers.
    """
    with _BoundedFile(path) as file:
        begin = file.read(32)
        if not begin.startswith(_ZIP_SIGNATURE):
            raise CheckpointError(_no_archive(begin))
        content = np.memmap(file, np.uint8, "r")
        try:
            with zipfile.ZipFile(file) as archive:
                members = _members(archive, content)
        except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, EOFError) as error:
            raise CheckpointError(f"is not a readable PyTorch checkpoint: {first_line(error)}") from error
    return _Archive(members).content()


class _BoundedFile(io.FileIO):
    """A file that refuses to read a large part at once: a hostile directory would take gigabytes of memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read `size` bytes, or raise ValueError where these are too many."""
        if size is not None and size > MAX_DIRECTORY_BYTES:
            raise ValueError(f"its directory has {size} bytes")
        return super().read(size)


class _Archive:
    """The members of an archive by their names below the top folder, whose name is free.

    Args:
        members: Bytes of the members.
    """

    def __init__(self, members: Mapping[str, NDArray[np.uint8]]) -> None:
        pickles = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise CheckpointError("is not a readable PyTorch checkpoint: a ZIP file without data.pkl")
        self.folder = pickles[0].removesuffix("data.pkl")
        self.members = members
        if f"{self.folder}constants.pkl" in members:
            raise CheckpointError(
                "is a TorchScript program, not arrays. Save the arrays of the model it was made from, or, where torch "
                "is installed: torch.save(torch.jit.load('old.pt', 'cpu').state_dict(), 'new.pth')"
            )
        order = members.get(f"{self.folder}byteorder")
        if order is not None and order[: len(_LITTLE) + 1].tobytes() != _LITTLE:
            raise CheckpointError(f"has numbers that are not little-endian. {RESAVE}")

    def content(self) -> object:
        pickle = self.members[f"{self.folder}data.pkl"]
        return read_pickle(pickle[: MAX_PICKLE_BYTES + 1].tobytes(), self._storage)

    def _storage(self, key: str, dtype: str, elements: int) -> Storage:
        member = self.members.get(f"{self.folder}data/{key}")
        if member is None:
            raise CheckpointError(f"is damaged: the storage {key[:40]!r} is missing")
        if len(member) != elements * STORED_TYPES[dtype].itemsize:
            raise CheckpointError(
                f"is damaged: the storage {key[:40]!r} has {len(member)} bytes, not {elements} numbers of {dtype}"
            )
        return Storage(dtype, member)


def _members(archive: zipfile.ZipFile, content: NDArray[Any]) -> dict[str, NDArray[np.uint8]]:
    """Return the bytes of all members, as parts of the mapped file.

    Raises:
        CheckpointError: A member is compressed or encrypted, lies outside the file, or has the name of another one.
    """
    members: dict[str, NDArray[np.uint8]] = {}
    for member in archive.infolist():
        name = member.filename
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise CheckpointError(f"is not a PyTorch checkpoint: its member {name[:80]!r} is compressed")
        if member.flag_bits & 0x1:
            raise CheckpointError(f"is not a PyTorch checkpoint: its member {name[:80]!r} is encrypted")
        if name in members:
            raise CheckpointError(f"is damaged: it has two members {name[:80]!r}")
        header = content[member.header_offset : member.header_offset + _LOCAL_HEADER.size].tobytes()
        signature, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
        begin = member.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
        if signature != b"PK\x03\x04" or begin + member.file_size > len(content):
            raise CheckpointError(f"is damaged: its member {name[:80]!r} is not where the directory says")
        members[name] = content[begin : begin + member.file_size]
    return members


def _no_archive(begin: bytes) -> str:
    """Return a sentence about a file that begins with other bytes than an archive."""
    if _LEGACY_SIGNATURE in begin:
        return f"is a file of PyTorch before 1.6, which only torch reads. {RESAVE}"
    if begin.startswith(_PICKLE_SIGNATURE):
        return (
            "is not a readable PyTorch checkpoint: it is a bare pickle, which may run any code. If you trust it, save "
            "its arrays where its code is installed: torch.save(model.state_dict(), 'arrays.pth')"
        )
    if b"<html" in begin.lower() or b"<!doctype" in begin.lower():
        return "is not a readable PyTorch checkpoint: it is a web page, probably the answer of a failed download"
    return "is not a readable PyTorch checkpoint: it does not begin like one"
