"""Facts about weights that the user states on the command line, and what the catalogue knows instead."""

import dataclasses
import math
import re
from pathlib import Path

from model_store import terminal
from model_store.catalogue.entries import file_sha256
from model_store.catalogue.published import published_with_hash
from model_store.errors import ModelStoreError, UsageError
from model_store.export.model_info import ModelInfo, info_of_checkpoint
from model_store.fetching.licence_acceptance import require_licence
from service.manifest import CARD_PATTERN, MAX_SUMMARY


def accepted_info(file: Path, stated: ModelInfo, *, accept_licence: bool) -> ModelInfo:
    """Return the facts about a checkpoint file, after the licence of a published one was accepted.

    Args:
        file: Checkpoint file.
        stated: Facts that the user has stated; a published file keeps its own.
        accept_licence: Whether the user accepts the licence by an option.

    Raises:
        ModelStoreError: The file does not exist, its licence is not stated, or it is not accepted.
    """
    info, model = info_of_checkpoint(file, stated)
    if model is not None:
        terminal.print_note(f"{file} is the published checkpoint of {model.name}")
        require_licence(model, is_accepted=accept_licence)
    return info


def measured_values(measured: list[str] | None) -> dict[str, float]:
    """Return the figures of `--measured NAME=VALUE`; raise UsageError for another form."""
    values = {}
    for item in measured or []:
        key, _, value = item.partition("=")
        try:
            values[key.strip()] = float(value)
        except ValueError:
            raise UsageError(f"--measured takes NAME=VALUE with a number, not {item!r}") from None
        if not math.isfinite(values[key.strip()]):
            raise UsageError(f"--measured takes finite numbers, not {item!r}")
    return values


def check_words(summary: str, card: str, *others: str) -> None:
    """Raise UsageError for words that no manifest can state, before anything is made.

    Args:
        summary: Summary of the model.
        card: Address or file name of the model card.
        others: Licence, notes and training data.
    """
    for text in (summary, card, *others):
        if not text.isascii() and text.encode(errors="replace").decode() != text:
            raise UsageError(f"{text[:100]!r} is not UTF-8 text")
    if len(summary) > MAX_SUMMARY:
        raise UsageError(f"--summary has {len(summary)} characters, at most {MAX_SUMMARY}")
    if not re.fullmatch(CARD_PATTERN, card):
        raise UsageError(f"--card takes an address with http, or the name of a file in the folder, not {card!r}")


def encoder_info(encoder: Path, decoder: Path, stated: ModelInfo, *, accept_licence: bool) -> ModelInfo:
    """Return the facts about a model of an ONNX encoder and the decoder of a checkpoint.

    Args:
        encoder: ONNX file of the encoder, whose hash becomes the source of the model.
        decoder: Checkpoint whose decoder the model has.
        stated: Facts that the user has stated.
        accept_licence: Whether the user accepts the licence of a published decoder by an option.

    Raises:
        ModelStoreError: A file does not exist, no licence is stated, or that of a published decoder is not accepted.
    """
    for file in (encoder, decoder):
        if not file.is_file():
            raise ModelStoreError(f"{file}: no such file")
    if not stated.licence.strip():
        raise UsageError(f"state the licence of {encoder} with --licence")
    if (model := published_with_hash(file_sha256(decoder))) is not None:
        terminal.print_note(f"{decoder} is the published checkpoint of {model.name}")
        require_licence(model, is_accepted=accept_licence)
    return dataclasses.replace(stated, source_sha256=file_sha256(encoder))
