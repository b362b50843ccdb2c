"""The models that this process serves: looked up by name, and replaced all at once by a reload."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from service.cache.redis.kept_images import KeptImages
from service.errors import ImageNotKept, ModelNotFound
from service.inference.backends.runtime import Runtime
from service.inference.context import RequestContext
from service.inference.embed import Embedder, EmbedResult, Upload
from service.inference.everything import EverythingSegmenter
from service.inference.image_states import ImageStates
from service.inference.model_files import ModelFile
from service.inference.model_memory import ModelMemory
from service.inference.scheduling.executors import TimedExecutor
from service.inference.segment import Segmenter
from service.manifest import Manifest
from service.sam.embedding import image_hash
from service.sam.image_id import ImageId
from service.telemetry.timings import Timings


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """One model, and the use cases over it. A request that began with a model ends with it, also after a reload.

    Args:
        runtime: Loaded model with its backends.
        states: Image states in memory and in Redis.
        embedder: Use cases of embedding.
        segmenter: Use case of segmenting.
        everything: Use case of everything mode.
        files: Files for decoding in the browser, by part; empty where this is not offered.
        memory: Memory that the model takes.
        manifest_sha256: SHA-256 of the manifest file. It holds the SHA-256 of every other file of the artifact.
        card: Model card, UTF-8; None unless it is a file of the artifact.
    """

    runtime: Runtime
    states: ImageStates
    embedder: Embedder
    segmenter: Segmenter
    everything: EverythingSegmenter
    files: Mapping[str, ModelFile]
    memory: ModelMemory
    manifest_sha256: str
    card: bytes | None = None

    @property
    def manifest(self) -> Manifest:
        """Description of the artifact."""
        return self.runtime.manifest

    @property
    def name(self) -> str:
        """Name by which requests choose the model."""
        return self.runtime.manifest.name

    @property
    def fingerprint(self) -> str:
        """Part of every cache key of the model."""
        return self.runtime.fingerprint

    def warm_up(self) -> None:
        """Run every graph once. Blocking."""
        with self.memory.measure():
            self.runtime.warm_up()

    def retire(self) -> None:
        """Drop what memory holds of a model that is served no more, and keep nothing from now on."""
        self.embedder.retire()
        self.states.retire()
        self.segmenter.retire()


@dataclass(frozen=True, slots=True)
class ModelChange:
    """What a reload did to one model.

    Args:
        name: Name of the model.
        change: `kept` for an artifact that has not changed, `added`, `replaced` or `removed`.
        model: Model that is served now; None for a removed one.
    """

    name: str
    change: Literal["kept", "added", "replaced", "removed"]
    model: ServedModel | None


class ServedModels:
    """All models of this process. The first one is the default.

    Args:
        models: Models, at least one, each with a name of its own.
        executor: Threads that unwrap and hash uploads.
        kept: Copies of uploads; None where they are not kept.
    """

    def __init__(self, models: Sequence[ServedModel], executor: TimedExecutor, kept: KeptImages | None = None) -> None:
        self._models: Mapping[str, ServedModel] = {model.name: model for model in models}
        self._executor = executor
        self._kept = kept

    @property
    def all(self) -> Sequence[ServedModel]:
        """All models, the default first."""
        return tuple(self._models.values())

    @property
    def default(self) -> ServedModel:
        """Model of requests that name none."""
        return next(iter(self._models.values()))

    def get(self, name: str | None) -> ServedModel:
        """Return the model of a request.

        Args:
            name: Name in the request; None for the default model.

        Raises:
            ModelNotFound: No model has this name.
        """
        if name is None:
            return self.default
        model = self._models.get(name)
        if model is None:
            raise ModelNotFound(
                f"No model {name!r} is served. This service has: {', '.join(self._models)}. Choose one of them, or "
                "leave the model out for the first one.",
                extra={"models": list(self._models)},
            )
        return model

    def states_by_fingerprint(self) -> Mapping[str, ImageStates]:
        """Return the image states of each model. Models with one fingerprint have the same embeddings."""
        return {model.fingerprint: model.states for model in self.all}

    def replace(self, models: Sequence[ServedModel]) -> Sequence[ModelChange]:
        """Serve other models from now on. Those that are not among them leave memory.

        Requests in progress end with the model that they began with.

        Args:
            models: Models, at least one, each with a name of its own. Models that are served already may be among them.

        Returns:
            What happened to each model, in the new order, and the removed models after them.
        """
        before, self._models = self._models, {model.name: model for model in models}
        changes: list[ModelChange] = []
        for name, model in self._models.items():
            old = before.get(name)
            changes.append(ModelChange(name, "kept" if old is model else "added" if old is None else "replaced", model))
        changes += [ModelChange(name, "removed", None) for name in before if name not in self._models]
        for name, model in before.items():
            if self._models.get(name) is not model:
                model.retire()
        return changes

    async def embed(
        self,
        body: bytes,
        unwrap: Callable[[bytes], Upload],
        context: RequestContext,
        *,
        model: ServedModel | None = None,
    ) -> EmbedResult:
        """Unwrap and hash an upload, and put the embedding of its image into the caches of one model.

        Where images are kept, Redis has a copy of the upload afterwards.

        Args:
            body: Body of the request.
            unwrap: Function that takes the image out of the body. It runs in a worker thread.
            context: Context of the request.
            model: Model that embeds; None for the one that the upload names, or the default.

        Raises:
            ModelNotFound: The upload names a model that is not served.
            ServiceError: Errors of `unwrap` and of `Embedder.embed`.
        """
        async with context.deadline.bound():
            upload, hashed = await self._executor.run(context.timings, _unwrap_and_hash, body, unwrap, context.timings)
            del body  # an image in a multipart body would be held twice while it is encoded
            chosen = model or self.get(upload.model)
            data, kept, namespace = upload.data, self._kept, context.caller.namespace
            # Before the work, so that a deletion during it prevents the copy.
            known = None if kept is None else await kept.renew(hashed, namespace)
            result = await chosen.embedder.embed(upload, hashed, context)
            if kept is not None and known is not None and isinstance(data, bytes):
                with context.timings.measure("cache_put"):
                    await kept.keep(hashed, namespace, data, known=known)
            return result

    async def embed_kept(self, image: ImageId, model: str | None, context: RequestContext) -> EmbedResult:
        """Embed an image, or a region of it, from the copy that is kept of an earlier upload.

        Args:
            image: Image, and how it is read.
            model: Name of the model that embeds; None for the default.
            context: Context of the request.

        Raises:
            ModelNotFound: No model has this name.
            ImageNotKept: There is no embedding of it, and no copy of the image.
            CacheUnavailable: Redis does not answer.
            ServiceError: Errors of `Embedder.embed`.
        """

        async def read() -> bytes:
            kept = self._kept
            found = None if kept is None else await kept.read(image.image_hash, context.caller.namespace)
            if found is None:
                raise ImageNotKept(
                    "No copy of this image is kept. Send its bytes: POST the file to /embed, with the region."
                )
            return found

        upload = Upload(read, image.options, model)
        return await self.get(model).embedder.embed(upload, image.image_hash, context)


def _unwrap_and_hash(body: bytes, unwrap: Callable[[bytes], Upload], timings: Timings) -> tuple[Upload, str]:
    with timings.measure("hash"):
        upload = unwrap(body)
        assert isinstance(upload.data, bytes)
        return upload, image_hash(upload.data)
