"""Matches the arrays of a checkpoint with those of its architecture's network."""

from collections.abc import Iterable, Mapping, Sequence

from model_store.architectures import Architecture
from model_store.checkpoint_files.comparison import ArrayForm, check_arrays, content_name, used_keys
from model_store.checkpoint_files.errors import CheckpointError
from model_store.checkpoint_files.expected import expected_arrays, video_arrays
from model_store.checkpoint_files.sam2_names import official_name, our_name


def matched_keys(
    architecture: Architecture, found: Mapping[str, ArrayForm], *, others: Sequence[str] = ()
) -> dict[str, str]:
    """Compare the arrays of a file with those of its architecture.

    Args:
        architecture: The architecture.
        found: Arrays of the file by key.
        others: Keys of the file whose values are no arrays.

    Returns:
        The key in the file of each array that the network uses, by the network's key.

    Raises:
        CheckpointError: Names the first keys that are missing, unexpected, no arrays, of a wrong shape or format, as
            official files call them.
    """
    if architecture.mask_decoder == "sam2":
        return _sam2_keys(architecture, found, others)
    used = {key: found[key] for key in used_keys(found)}
    check_arrays(expected_arrays(architecture), used, content_name(architecture), others=used_keys(others))
    return {key: key for key in used}


def _sam2_keys(architecture: Architecture, found: Mapping[str, ArrayForm], others: Sequence[str]) -> dict[str, str]:
    name = content_name(architecture)
    keys = _by_official_name(found, name)
    expected = {official_name(key): array for key, array in expected_arrays(architecture).items()}
    video = video_arrays(architecture)
    forms = {official: found[key] for official, key in keys.items()}
    check_arrays({**expected, **video}, forms, name, others=others, optional=video)
    return {our_name(official): key for official, key in keys.items() if official in expected}


def _by_official_name(keys: Iterable[str], name: str) -> dict[str, str]:
    """Return keys of a file by their official names. Files of this project's networks have other ones."""
    result: dict[str, str] = {}
    for key in keys:
        official = official_name(key)
        if official in result:
            raise CheckpointError(f"not {name}: it has {key[:100]} twice, once as {result[official][:100]}.")
        result[official] = key
    return result
