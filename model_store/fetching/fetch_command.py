"""The command `fetch`: a published checkpoint becomes a model for the service."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from model_store import terminal
from model_store.catalogue.entries import DEFAULT_MODELS_DIRECTORY, published_model
from model_store.catalogue.published_model import PublishedModel
from model_store.errors import ModelStoreError, UsageError
from model_store.export.from_checkpoint import ExportOptions, is_export_of
from model_store.export.model_info import info_of_published
from model_store.export.output_folder import check_output_folder
from model_store.fetching.licence_acceptance import require_licence
from model_store.make_model import convert_model, print_serve_command, require_converter, time_made_model
from model_store.options import (
    AcceptLicence,
    Force,
    Mirror,
    ModelsDir,
    PublishedName,
    Sha256,
    Timing,
    UpsampleOption,
    WeightsOption,
)
from model_store.program import store_command

_SHA256_DIGITS = 64


@dataclass(frozen=True, slots=True)
class Source:
    """Addresses and hash of a download, where they differ from the catalogue's.

    Args:
        urls: Addresses in place of the official ones; empty for these.
        mirror: Base address that replaces scheme and host of the official addresses; empty for none.
        sha256: SHA-256 in place of the catalogue's; empty for that one.
    """

    urls: tuple[str, ...] = ()
    mirror: str = ""
    sha256: str = ""


def fetch(
    name: PublishedName,
    models_dir: ModelsDir = DEFAULT_MODELS_DIRECTORY,
    *,
    url: Annotated[
        list[str] | None,
        typer.Option(help="Address to fetch from instead of the official ones. May be repeated; tried in order."),
    ] = None,
    mirror: Mirror = "",
    sha256: Sha256 = "",
    accept_licence: AcceptLicence = False,
    export: Annotated[bool, typer.Option(help="Make a model for the service from the file.")] = True,
    weights: WeightsOption = "float16",
    upsample_mode: UpsampleOption = None,
    timing: Timing = True,
    force: Force = False,
) -> None:
    """Download a published checkpoint and make a model for the service from it.

    An interrupted download is resumed. The SHA-256 is checked for every source, and the length where it is published.
    A licence that forbids commercial use has to be accepted: on a terminal, or by --accept-licence.

    [bold]Examples[/bold]

    edgesam models fetch edgetam

    edgesam models fetch edge-sam --accept-licence

    edgesam models fetch edge-sam-3x --accept-licence --no-export --models-dir /srv/models

    edgesam models fetch mobile-sam --url https://mirror.example/mobile_sam.pt
    """
    model = published_model(name)
    source = Source(tuple(url or ()), mirror, sha256)
    if not export:
        require_licence(model, is_accepted=accept_licence)
        typer.echo(f"{name} is downloaded: {download(model, models_dir, source)}")
        return
    options = ExportOptions(weights=weights, upsample_mode=upsample_mode)
    made = fetch_model(model, models_dir, source, options, accept_licence=accept_licence, force=force)
    if not made:
        typer.echo(f"{name} is already at {models_dir / name}")
    elif timing:
        time_made_model(models_dir / name)
    print_serve_command(name, models_dir)


def fetch_model(
    model: PublishedModel,
    models_dir: Path,
    source: Source,
    options: ExportOptions,
    *,
    accept_licence: bool,
    force: bool,
) -> bool:
    """Download a published checkpoint and make a model of it, unless it is there.

    Args:
        model: Entry of the catalogue.
        models_dir: Folder of models.
        source: Addresses and hash.
        options: Choices of the export.
        accept_licence: Whether the user accepts the licence by an option.
        force: Whether a model that is there is made again.

    Returns:
        Whether the model was made; False if it was there.

    Raises:
        ModelStoreError: The licence is not accepted, the file could not be fetched, or it could not be converted.
    """
    sha256 = _expected_sha256(model, source)  # first: nobody should read a licence for a command that cannot work
    require_licence(model, is_accepted=accept_licence)
    directory = models_dir / model.name
    if not force and is_export_of(directory, sha256, options):
        return False
    require_converter(options)
    check_output_folder(directory, force=force)
    checkpoint = download(model, models_dir, source)
    convert_model(
        checkpoint,
        directory,
        name=model.name,
        info=info_of_published(model, sha256=sha256),
        options=options,
        architecture=model.architecture,
    )
    return True


def download(model: PublishedModel, models_dir: Path, source: Source) -> Path:
    """Download the checkpoint of a published model, with a progress bar.

    Args:
        model: Entry of the catalogue.
        models_dir: Folder for the file.
        source: Addresses and hash.

    Raises:
        ModelStoreError: No SHA-256 is known, or no address sent the file. The message names the command for
            a file from elsewhere.
    """
    from model_store.fetching import fetch as downloads  # noqa: PLC0415 - the other commands need no httpx
    from model_store.fetching import mirrors  # noqa: PLC0415 - the same

    sha256 = _expected_sha256(model, source)
    is_published_file = sha256 == model.sha256
    if not is_published_file and model.sha256 is not None:
        terminal.print_note(f"--sha256 replaces the catalogue's SHA-256 of {model.name}. Origin of that one: "
                            f"{model.sha256_source}")  # fmt: skip
    urls = source.urls or (mirrors.mirrored(model.urls, source.mirror) if source.mirror else model.urls)
    try:
        with terminal.download_bar(model.file_name) as on_progress:
            return downloads.fetch(
                urls,
                models_dir / model.file_name,
                size_bytes=model.size_bytes if is_published_file else None,
                max_bytes=model.max_bytes,
                sha256=sha256,
                on_progress=on_progress,
                on_notice=terminal.print_note,
            )
    except downloads.FetchError as error:
        # Without a published hash, `import` cannot recognise the file, and its keys may be those of another model.
        architecture = "" if model.sha256 else f" --architecture {model.architecture}"
        hint = ""
        if error.is_other_file and is_published_file:
            hint = _hash_doubt(model)
        elif not (error.is_other_file or source.urls or source.mirror):
            hint = "--mirror or EDGESAM_MIRROR names another host that has it. "
        raise ModelStoreError(
            f"{error}. {hint}If you have a file that you trust, make a model of it: "
            f'{store_command()} import FILE --name {model.name} --licence "{model.licence.title}"{architecture}'
        ) from error


def _hash_doubt(model: PublishedModel) -> str:
    """Return sentences about a catalogue's hash that a file differs from; empty for one that the authors publish."""
    if model.sha256_origin != "copies":
        return f"Origin of the expected SHA-256: {model.sha256_source}. "
    return (
        f"The authors of {model.name} publish no SHA-256; the expected one and the length are those of "
        f"{model.sha256_source}. So the authors' own file may differ. If this one is from {model.card}, please report "
        "its SHA-256 to this project, and pass it with --sha256 only if you trust the file. "
    )


def _expected_sha256(model: PublishedModel, source: Source) -> str:
    """Return the SHA-256 that the file must have; raise UsageError if none is known or it is no SHA-256."""
    sha256 = source.sha256.strip().lower() or model.sha256
    if sha256 is None:
        raise UsageError(
            f"no SHA-256 of {model.name} is published, so a wrong file could not be told from the right one. State "
            f"with --sha256 the SHA-256 of a file that you trust (sha256sum FILE). The address is {model.urls[0]}"
        )
    if len(sha256) != _SHA256_DIGITS or not set(sha256) <= set("0123456789abcdef"):
        raise UsageError("--sha256 takes 64 hexadecimal digits")
    return sha256
