"""Embedding images, and looking up, reading and deleting their embeddings: the use cases behind /embed."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial

from service.cache.recent_deletions import RecentDeletions
from service.errors import CacheUnavailable, ImageNotKept
from service.inference.backends.runtime import Runtime
from service.inference.context import RequestContext
from service.inference.image_key import ImageKey
from service.inference.image_states import ImageStates, Tier
from service.inference.model_batchers import EncodedFrame, EncodeItem, EncoderInput
from service.inference.scheduling.batching import DynamicBatcher
from service.inference.scheduling.executors import TimedExecutor
from service.inference.scheduling.fairness import Caller
from service.inference.scheduling.singleflight import Lease, SharedFlight, SingleFlight
from service.sam.decoded_image import USUAL, ImageInfo, ReadOptions
from service.sam.embedding import ImageEmbedding, includes
from service.sam.image_id import ImageId, parse_image_id
from service.sam.images import decode_image
from service.sam.number_format import EmbeddingDtype
from service.sam.resizing import Resizer
from service.sam.transforms import Size
from service.telemetry.timings import Timings


@dataclass(frozen=True, slots=True, eq=False)
class Upload:
    """An image as a client sends it, or names it.

    Args:
        data: Bytes of the file, or a function that reads its kept copy and raises ImageNotKept without one.
        options: How the bytes are read, and the region of the image that is embedded.
        model: Name of the model that embeds the image; None for the default model.
    """

    data: bytes | Callable[[], Awaitable[bytes]]
    options: ReadOptions = USUAL
    model: str | None = None


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """Answer of `Embedder.embed`.

    Args:
        image_id: Id by which prompts name the image: its hash, and how it is read.
        image: Size of the upright image, and how its file was read.
        cached: Cache tier that had the embedding; None if it was computed for this answer.
        model: Name of the model that embedded the image.
    """

    image_id: str
    image: ImageInfo
    cached: Tier | None
    model: str

    @property
    def image_hash(self) -> str:
        """SHA-256 of the image's bytes, which names the image only if it was read in the usual way."""
        return parse_image_id(self.image_id).image_hash

    @property
    def original_size(self) -> Size:
        """Height and width of the upright image, in pixels."""
        return self.image.size


class _IsWhole(Exception):
    """The region of an upload is the whole image, which is stored as such."""


class Embedder:
    """Computes the embeddings of images by one model, and manages those in the caches.

    Args:
        runtime: Model that embeds.
        batcher: Queue and threads of the image encoders.
        states: Image states in memory, and embeddings in Redis.
        shared_flight: Lock across replicas, so that one of them encodes an image; None without Redis.
        recent_deletions: Images that were deleted in the last minutes.
        executor: Threads that decode and resize images.
        dtype: Type to which the tokens are rounded before anything else reads them. All tiers and all replicas so
            decode the same numbers.
        max_pixels: Largest accepted image, in pixels.
        resizer: Implementation of the resize to the encoder's input.
    """

    def __init__(
        self,
        *,
        runtime: Runtime,
        batcher: DynamicBatcher[EncodeItem, EncodedFrame],
        states: ImageStates,
        shared_flight: SharedFlight[ImageEmbedding] | None,
        recent_deletions: RecentDeletions,
        executor: TimedExecutor,
        dtype: EmbeddingDtype,
        max_pixels: int,
        resizer: Resizer,
    ) -> None:
        self._runtime = runtime
        self._batcher = batcher
        self._states = states
        self._shared_flight = shared_flight
        self._executor = executor
        self._dtype = dtype
        self._max_pixels = max_pixels
        self._resizer = resizer
        self._flights: SingleFlight[EmbedResult] = SingleFlight()
        self._recent_deletions = recent_deletions
        recent_deletions.watch(self._detach)

    async def embed(self, upload: Upload, image_hash: str, context: RequestContext) -> EmbedResult:
        """Put the embedding of an image into the caches. After that every replica can segment the image.

        1. Look the image up before it is decoded. 2. Let one of several requests with the same image compute.
        3. Decode, resize, encode and prepare the image. 4. Store it in memory and in Redis. A region that proves to
        be the whole image is embedded as the whole image.

        Args:
            upload: Image, and how it is read.
            image_hash: SHA-256 of the image's bytes.
            context: Context of the request.

        Raises:
            UnsupportedImage, UndecodableImage, ImageTooLarge, UnusableAspectRatio: The image cannot be used.
            InvalidRequest: The image has no such bands, or no such region.
            ImageNotKept: The upload has no bytes, and there is no copy.
            Overloaded, DeadlineExceeded, NotReady: The server cannot answer now.
        """
        async with context.deadline.bound():
            key = self._key(str(ImageId(image_hash, upload.options)), context.caller)
            state = self._states.peek(key.cache_key)
            if state is not None and await self._states.ensure_shared(key.cache_key, state):
                return self._result(key, state.embedding.info, "memory")
            while True:
                try:
                    return await self._flights.run(
                        key.cache_key, lambda: self._embed_missing(key, upload, context.restarted()), context.timings
                    )
                except ImageNotKept:
                    # Another request for this image has no bytes, and this one joined it.
                    if not isinstance(upload.data, bytes):
                        raise
                except _IsWhole:
                    break
        whole = replace(upload, options=replace(upload.options, region=None))
        return await self.embed(whole, image_hash, context)

    def retire(self) -> None:
        """Take no part in later deletions, after the model was removed. Uploads in progress go on and end."""
        self._recent_deletions.unwatch(self._detach)

    async def contains(self, image_id: str, caller: Caller) -> tuple[Tier, ImageInfo] | None:
        """Return the cache tier that has an image's embedding, and the image's size; None if no tier has it.

        Args:
            image_id: Id of the image, see `service.sam.image_id`.
            caller: API key of the request.

        Raises:
            CacheUnavailable: Memory does not have it, and Redis does not answer.
        """
        return await self._states.contains(self._key(image_id, caller).cache_key)

    def prefetch(self, image_id: str, context: RequestContext) -> bool:
        """Load an image that a cache tier has into memory, ahead of prompts and in the background.

        Args:
            image_id: Id of the image, see `service.sam.image_id`.
            context: Context of the request.

        Returns:
            Whether memory has the image, or is getting it.
        """
        return self._states.prefetch(self._key(image_id, context.caller).cache_key, context)

    async def read(self, image_id: str, context: RequestContext) -> ImageEmbedding:
        """Return an image's embedding, for clients that decode masks themselves.

        Args:
            image_id: Id of the image, see `service.sam.image_id`.
            context: Context of the request.

        Raises:
            EmbeddingNotFound: No cache tier has it.
            CacheUnavailable: Memory does not have it, and Redis does not answer.
            DeadlineExceeded: Redis took too long.
        """
        async with context.deadline.bound():
            return await self._states.embedding(self._key(image_id, context.caller).cache_key, context.timings)

    async def delete(self, image_id: str, context: RequestContext) -> bool:
        """Delete an image of this model in this process and in Redis, and publish the deletion to the other replicas.

        Args:
            image_id: Id of the image, see `service.sam.image_id`.
            context: Context of the request.

        Returns:
            Whether any cache tier had the image.

        Raises:
            CacheUnavailable: Redis may still have the image.
            DeadlineExceeded: The image is being embedded, and that took too long to wait for.
        """
        key = self._key(image_id, context.caller).cache_key
        async with context.deadline.bound():
            await self._flights.settle(
                partial(includes, key)
            )  # requests that wait for this embedding are answered first
            return await self._states.delete(key)

    def _key(self, image_id: str, caller: Caller) -> ImageKey:
        return ImageKey(image_id, caller.namespace, self._runtime.fingerprint, self._dtype)

    def _result(self, key: ImageKey, image: ImageInfo, cached: Tier | None) -> EmbedResult:
        return EmbedResult(key.image_id, image, cached, self._runtime.manifest.name)

    def _detach(self, cache_key: str) -> bool:
        """Let an upload after a deletion compute anew, although an upload before the deletion may still compute."""
        self._flights.detach(partial(includes, cache_key))
        return False

    async def _embed_missing(self, key: ImageKey, upload: Upload, context: RequestContext) -> EmbedResult:
        """Embed an image that memory does not have: from Redis, by another replica, or by this encoder."""
        tombstone: str | None = None
        try:
            found = await self._states.look_up(key.cache_key, context)
            if found is not None:
                state, tier = found
                return self._result(key, state.embedding.info, tier)
            tombstone = await self._states.tombstone(key.cache_key)
        except CacheUnavailable:
            pass  # the tombstone is read again when the embedding is stored in Redis
        lease: Lease | None = None
        if self._shared_flight is not None:
            claim = await self._shared_flight.claim(key.cache_key, context.timings)
            if not isinstance(claim, Lease):
                await self._states.prepare(key.cache_key, claim, context)
                return self._result(key, claim.info, "redis")
            lease = claim
        try:
            embedding = await self._encode(upload, context)
            await self._states.add(key.cache_key, embedding, context, tombstone=tombstone)
        finally:
            if lease is not None:  # waiting replicas find the value now, or may compute it at once
                await lease.release()
        return self._result(key, embedding.info, None)

    async def _encode(self, upload: Upload, context: RequestContext) -> ImageEmbedding:
        timings = context.timings
        if isinstance(upload.data, bytes):
            data = upload.data
        else:
            with timings.measure("cache_get"):
                data = await upload.data()
        encoder_input, info = await self._executor.run(timings, self._read, data, upload.options, timings)
        done = await self._batcher.submit(EncodeItem(self._runtime, encoder_input), caller=context.caller.name)
        timings.add("queue", done.queue_s, ended_at=done.ran_until - done.run_s)
        timings.add("encode", done.run_s, ended_at=done.ran_until)
        if context.usage is not None:
            height, width = info.encoded_size
            context.usage.add_image(height * width, done.run_s / done.batch_size)
        encoded = done.result
        return ImageEmbedding(
            encoded.tokens,
            info.size,
            encoded.proposals,
            info.orientation,
            info.levels,
            encoded.high_res,
            info.region,
            encoded.scales,
        )

    def _read(self, data: bytes, options: ReadOptions, timings: Timings) -> tuple[EncoderInput, ImageInfo]:
        """Decode and resize an image. Blocking."""
        manifest = self._runtime.manifest
        with timings.measure("decode_image"):
            image = decode_image(
                data,
                max_pixels=self._max_pixels,
                options=options,
                resize=manifest.resize,
                image_size=manifest.image_size,
            )
        if options.region is not None and image.region is None:
            raise _IsWhole
        with timings.measure("preprocess"):
            encoder_input = manifest.encoder_input(image.pixels, image.info.encoded_size, self._resizer)
        return encoder_input, image.info
