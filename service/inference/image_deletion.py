"""Deleting an image: the embeddings of all models, in this process, on disk, in Redis and in the other replicas."""

import asyncio

from service.cache.disk.tier import DiskTier
from service.cache.recent_deletions import RecentDeletions
from service.cache.redis.deletion_records import DeletionRecords
from service.cache.redis.deletions import Deletions
from service.cache.redis.models import ModelRegistry
from service.inference.context import RequestContext
from service.inference.served_models import ServedModels
from service.sam.embedding import embedding_key, kept_image_key
from service.sam.image_id import parse_image_id
from service.sam.number_format import EmbeddingDtype


class ImageDeletion:
    """Deletes images. Of models that only other replicas serve, Redis has a record.

    Args:
        models: Models of this process.
        recent_deletions: Deletions known to this process.
        deletions: Deletions of all replicas; None without Redis.
        registry: Models whose embeddings Redis may have; None without Redis.
        dtype: Type of the tokens in the caches of this process.
        keeps_images: Whether this process stores copies of uploads in Redis.
        records: Records of deletions for replicas that are off now; None without Redis.
        disk: Disk tier; None without one.
    """

    def __init__(
        self,
        models: ServedModels,
        *,
        recent_deletions: RecentDeletions,
        deletions: Deletions | None,
        registry: ModelRegistry | None,
        dtype: EmbeddingDtype,
        keeps_images: bool = False,
        records: DeletionRecords | None = None,
        disk: DiskTier | None = None,
    ) -> None:
        self._models = models
        self._recent_deletions = recent_deletions
        self._deletions = deletions
        self._registry = registry
        self._dtype = dtype
        self._keeps_images = keeps_images
        self._records = records
        self._disk = disk

    async def delete(self, image_id: str, context: RequestContext) -> bool:
        """Delete an image of all models, and publish the deletion to the other replicas.

        The hash alone names the image with all its variants and regions, and other ids name one of them. The copy that
        is kept of an image is deleted with each id but those of a region.

        Args:
            image_id: Id of the image, see `service.sam.image_id`.
            context: Context of the request.

        Returns:
            Whether any cache tier had the image.

        Raises:
            CacheUnavailable: Redis or the disk may still have the image.
            DeadlineExceeded: The image is being embedded, and that took too long to wait for.
        """
        async with context.deadline.bound():
            # All three before the embeddings. The record: a replica reads it before it stores a file in Redis anew.
            # The copy: an upload that begins after the deletion of an embedding must not find it. The files: to know
            # whether there were any.
            before = await asyncio.gather(
                self._record(image_id, context),
                self._delete_files(image_id, context),
                self._delete_copy(image_id, context),
                return_exceptions=True,
            )
            # All are tried, also when one fails: the image then leaves at least the memory of this process.
            served = [model.embedder.delete(image_id, context) for model in self._models.all]
            found = await asyncio.gather(
                *served, self._delete_of_other_models(image_id, context), return_exceptions=True
            )
            # Once more, for an upload that was in progress.
            after = await asyncio.gather(self._delete_files(image_id, context), return_exceptions=True)
        outcomes = (*before, *found, *after)
        for each in outcomes:
            if isinstance(each, BaseException):
                raise each
        return any(outcomes)

    async def _record(self, image_id: str, context: RequestContext) -> bool:
        """Record the deletion for the disks of replicas that are off now. A record is no trace of the image."""
        if self._records is not None:
            await self._records.record(self._key(image_id, context))
        return False

    async def _delete_files(self, image_id: str, context: RequestContext) -> bool:
        """Delete the files of all models on disk."""
        return self._disk is not None and await self._disk.delete(self._key(image_id, context))

    def _key(self, image_id: str, context: RequestContext) -> str:
        """Return the cache key of the image for any model."""
        return embedding_key(image_id, "any", self._dtype, context.caller.namespace)

    async def _delete_copy(self, image_id: str, context: RequestContext) -> bool:
        """Delete the kept copy of an image. The deletion of a region leaves it."""
        image = parse_image_id(image_id)
        if self._deletions is None or image.options.region is not None:
            return False
        key = kept_image_key(image.image_hash, context.caller.namespace)
        # Replicas with another setting may have stored a copy.
        return await (self._deletions.delete(key) if self._keeps_images else self._deletions.remove(key))

    async def _delete_of_other_models(self, image_id: str, context: RequestContext) -> bool:
        """Delete the embeddings of models that other replicas serve, or that a reload has removed."""
        if self._deletions is None or self._registry is None:
            return False
        was_there = False
        for fingerprint, dtype in await self._registry.models():
            if dtype == self._dtype and fingerprint in self._models.states_by_fingerprint():
                continue
            key = embedding_key(image_id, fingerprint, dtype, context.caller.namespace)
            # An upload that began before a reload may end now. It must not store the image.
            self._recent_deletions.add(key)
            was_there = await self._deletions.delete(key) or was_there
        return was_there
