"""The served models, made from the settings: loaded from their folders, and with the use cases over them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from service.cache.codecs import EmbeddingCodec
from service.composition.cache import Cache
from service.composition.inference import Inference, worker_threads
from service.inference.backends.runtime import Runtime
from service.inference.disk_embeddings import DiskEmbeddings
from service.inference.embed import Embedder
from service.inference.everything import EverythingSegmenter
from service.inference.image_states import ImageStates
from service.inference.model_card import read_model_card
from service.inference.model_files import ModelFile, read_model_files
from service.inference.model_memory import ModelMemory
from service.inference.refinement_masks import RefinementMasks
from service.inference.segment import Segmenter
from service.inference.segmentation_builder import MaskFunctions
from service.inference.served_models import ServedModel
from service.manifest import MANIFEST_NAME, Manifest, ManifestError, load_manifest, read_manifest
from service.native.masks import native_masks
from service.native.resize import native_resizer
from service.sam.enlarged_pieces import filter_enlarged
from service.sam.mask_pieces import filter_pieces
from service.sam.masks import binary_mask
from service.sam.resizing import PillowResizer, Resizer
from service.settings import Settings

# A prepared image of a model with maps of high resolution, at most: 16 MiB of float32, 8 of the state, and 12 of copies
# of the maps in the memory of a GPU.
_LARGEST_STATE_BYTES = 36 << 20


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is loaded and not served yet.

    Args:
        runtime: Model with its backends.
        files: Files for decoding in the browser, by part.
        memory: Memory that the model takes.
        manifest_sha256: SHA-256 of the manifest file.
        card: Model card; None unless it is a file of the artifact.
    """

    runtime: Runtime
    files: dict[str, ModelFile]
    memory: ModelMemory
    manifest_sha256: str
    card: bytes | None


def load_model(settings: Settings, directory: Path) -> LoadedModel:
    """Load a model. Blocking, for seconds.

    Args:
        settings: Settings of the service; provider, precision, decoder and role hold for all models.
        directory: Folder of the artifact.

    Raises:
        ManifestError, ProviderUnavailable: The artifact cannot be served. The message gives the reason.
    """
    before, sha256 = _stamps(directory), manifest_sha256(directory)
    _check_memory_tier(settings, load_manifest(directory))
    memory = ModelMemory()
    with memory.measure():
        runtime = Runtime(
            directory,
            provider=settings.provider,
            threads=worker_threads(settings),
            decoder=settings.decoder,
            precision=settings.precision,
            max_encode_batch=settings.max_encode_batch,
            engine_cache_dir=settings.engine_cache_dir,
            encodes=settings.role != "segment",
            segments=settings.role != "embed",
        )
    memory.artifact_bytes = sum(file.size_bytes for file in runtime.manifest.files)
    offers_files = settings.browser_runtime_dir is not None
    files = dict(read_model_files(directory, runtime.manifest)) if offers_files else {}
    card = read_model_card(directory, runtime.manifest)
    # The files are compared with the manifest before they are loaded. New weights must not get the old fingerprint.
    if _stamps(directory) != before:
        raise ManifestError(f"{directory}: was changed while it was loaded. Load it again when it is complete")
    return LoadedModel(runtime, files, memory, sha256, card)


def _check_memory_tier(settings: Settings, manifest: Manifest) -> None:
    """Raise ManifestError where no tier would keep an image of the model. Settings alone check the smaller models."""
    if manifest.has_high_res and settings.redis_url is None and settings.memory_cache_bytes < _LARGEST_STATE_BYTES:
        raise ManifestError(
            f"EDGESAM_MEMORY_CACHE_BYTES is too small to keep a single image of the model {manifest.name!r}, and there "
            f"is no EDGESAM_REDIS_URL; give at least {_LARGEST_STATE_BYTES} bytes"
        )


def manifest_sha256(directory: Path) -> str:
    """Return the SHA-256 of an artifact's manifest, which holds the SHA-256 of every other file.

    Raises:
        ManifestError: There is no readable manifest.
    """
    return hashlib.sha256(read_manifest(directory)).hexdigest()


def _stamps(directory: Path) -> dict[str, tuple[int, int, int]]:
    """Return what changes with the files of an artifact: inode, time of the last change, and size.

    Raises:
        ManifestError: There is no readable manifest, or a file is missing.
    """
    names = [MANIFEST_NAME, *(file.file for file in load_manifest(directory).files)]
    try:
        found = {name: (directory / name).stat() for name in names}
    except OSError as error:
        raise ManifestError(f"{error.filename}: cannot be read ({error.strerror})") from error
    return {name: (stat.st_ino, stat.st_mtime_ns, stat.st_size) for name, stat in found.items()}


def check_together(manifests: Sequence[Manifest]) -> None:
    """Check that models can be served together.

    Args:
        manifests: Manifests of all models.

    Raises:
        ManifestError: Two models have the same name, or the same fingerprint and so the same keys in the caches.
    """
    by_name: set[str] = set()
    by_fingerprint: dict[str, str] = {}
    for manifest in manifests:
        if manifest.name in by_name:
            raise ManifestError(
                f"the model {manifest.name!r} is named twice. Requests choose models by their names: name it once, or "
                "export one of the two under another name"
            )
        by_name.add(manifest.name)
        other = by_fingerprint.setdefault(manifest.fingerprint, manifest.name)
        if other != manifest.name:
            raise ManifestError(
                f"the models {other!r} and {manifest.name!r} have the same image encoder, so their embeddings could "
                "not be told apart. Serve one of them"
            )


def served_model(settings: Settings, loaded: LoadedModel, cache: Cache, inference: Inference) -> ServedModel:
    """Return a loaded model with the use cases over it. Queues, threads and memory are those of all models.

    Args:
        settings: Settings of the service.
        loaded: Loaded model.
        cache: Caches in memory and in Redis.
        inference: Queues and threads of all models.
    """
    runtime = loaded.runtime
    redis = cache.redis.of_model(runtime.fingerprint, has_high_res=runtime.manifest.has_high_res)
    states = ImageStates(
        cache.states,
        redis.embeddings,
        deletions=cache.redis.deletions,
        recent_deletions=cache.recent_deletions,
        runtime=runtime,
        executor=inference.prompt_executor,
        background=inference.background,
        renew_every_s=settings.cache_ttl_s / 10,
        disk=_disk_embeddings(runtime, cache, inference),
    )
    embedder = Embedder(
        runtime=runtime,
        batcher=inference.encode_batcher,
        states=states,
        shared_flight=redis.flight,
        recent_deletions=cache.recent_deletions,
        executor=inference.upload_executor,
        dtype=settings.embedding_dtype,
        max_pixels=settings.max_image_pixels,
        resizer=_resizer(settings),
    )
    segmenter = Segmenter(
        runtime=runtime,
        batcher=inference.decode_batcher,
        states=states,
        masks=RefinementMasks(
            cache.masks,
            redis.masks,
            inference.background,
            cache.recent_deletions,
            store_timeout_s=settings.mask_store_timeout_s,
        ),
        executor=inference.prompt_executor,
        dtype=settings.embedding_dtype,
        max_decode_batch=settings.max_decode_batch,
        mask_functions=_mask_functions(settings),
    )
    everything = EverythingSegmenter(
        runtime=runtime,
        batcher=inference.everything_batcher,
        states=states,
        executor=inference.everything_executor,
        dtype=settings.embedding_dtype,
        mask_functions=_mask_functions(settings),
    )
    return ServedModel(
        runtime=runtime,
        states=states,
        embedder=embedder,
        segmenter=segmenter,
        everything=everything,
        files=loaded.files,
        memory=loaded.memory,
        manifest_sha256=loaded.manifest_sha256,
        card=loaded.card,
    )


def load_models(settings: Settings, directories: Sequence[Path]) -> list[LoadedModel]:
    """Load several models, one after the other. Blocking.

    Args:
        settings: Settings of the service.
        directories: Folders of the artifacts.

    Raises:
        ManifestError, ProviderUnavailable: A model cannot be served, or not with the others.
    """
    check_together([load_manifest(directory) for directory in directories])
    return [load_model(settings, directory) for directory in directories]


def _resizer(settings: Settings) -> Resizer:
    """Return the resize in C; Pillow's without the C library or with the ONNX decoder."""
    native = None if settings.decoder == "onnx" else native_resizer()
    return PillowResizer() if native is None else native


def _disk_embeddings(runtime: Runtime, cache: Cache, inference: Inference) -> DiskEmbeddings | None:
    """Return the disk tier of a model's embeddings, where there is one."""
    if cache.disk is None:
        return None
    return DiskEmbeddings(
        cache.disk.tier,
        cache.disk.missed,
        EmbeddingCodec(runtime.fingerprint, has_high_res=runtime.manifest.has_high_res),
        recent_deletions=cache.recent_deletions,
        runtime=runtime,
        background=inference.background,
    )


def _mask_functions(settings: Settings) -> MaskFunctions:
    """Return the C functions that make masks; those in NumPy without the C library or with the ONNX decoder."""
    native = None if settings.decoder == "onnx" else native_masks()
    if native is None:
        return MaskFunctions(binary_mask, filter_pieces, filter_enlarged)
    return MaskFunctions(native.binary_mask, native.filter_pieces, native.filter_enlarged)
