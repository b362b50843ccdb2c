"""Masks of given boxes, over all images that a file of boxes names. The state of the run is stored after each image."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import Any, Final

from .async_client import AsyncClient
from .box_files import BoxedImage, GivenBox, Refusal
from .cutout import write_mask
from .errors import ClientError, Unauthorized, Unreachable
from .folder import check_size, each, limits_of
from .folder_state import FileVersion, FolderState
from .values import Embedded, Mask, Prompt, Reading

# Bounds the time of a request; a service may take fewer.
_PROMPTS_PER_REQUEST: Final = 32

# Called after each image with its number of masks or the error. None is the result of an earlier run.
OnResult = Callable[[BoxedImage, int | Exception | None], None]


@dataclass(slots=True)
class BoxRun:
    """Results of a run.

    Args:
        done: Number of images that were segmented.
        known: Number of images whose masks were in the state.
        masks: Number of new masks.
        failed: Images that could not be segmented, each with its error.
        refused: Boxes outside their images.
    """

    done: int = 0
    known: int = 0
    masks: int = 0
    failed: list[tuple[BoxedImage, Exception]] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class BoxJob:
    """What a run does with each image.

    Args:
        reading: How the service reads the samples of the files.
        jobs: Number of images in progress, at least 1. Each holds the bytes of its file.
        masks: Folder of a PNG file for each mask; None for none.
    """

    reading: Reading
    jobs: int
    masks: Path | None


async def segment_folder(
    client: AsyncClient,
    folder: Path,
    images: Sequence[BoxedImage],
    job: BoxJob,
    state: FolderState,
    on_result: OnResult,
) -> BoxRun:
    """Segment the boxes of images that are not in the state, and add their masks to it. A bad image does not stop it.

    Args:
        client: Client of the service.
        folder: Folder of the images.
        images: Images with their boxes.
        job: What is done with each image.
        state: State of the run.
        on_result: Callback after each image.

    Raises:
        Unauthorized: if the service refuses the API key. The remaining images are not tried.
        Unreachable: if the service does not answer. The remaining images are not tried.
        OSError: if the state cannot be written.
    """
    run = BoxRun()
    limits = await limits_of(client)
    per_request = int(min(_PROMPTS_PER_REQUEST, limits.max_prompts))
    writing = asyncio.Lock()

    async def segment(image: BoxedImage) -> tuple[FileVersion, dict[str, Any]]:
        path = folder / image.name
        version = FileVersion.of(path, image.digest)
        check_size(path, limits.max_image_bytes)
        embedded = await client.embed(path, levels=job.reading.levels, bands=job.reading.bands)
        boxes = [box for box in image.boxes if _is_inside(box, embedded)]
        masks: dict[int, Mask] = {}
        for start in range(0, len(boxes), per_request):
            part = boxes[start : start + per_request]
            prompts = [Prompt(box=box.corners) for box in part]
            answer = await client.segment(embedded, prompts, cleanup="auto")
            masks |= {box.annotation_id: result[0] for box, result in zip(part, answer.results, strict=True)}
        return version, {
            "width": embedded.width,
            "height": embedded.height,
            "masks": {str(annotation_id): asdict(mask) for annotation_id, mask in masks.items()},
        }

    async def handle(image: BoxedImage) -> None:
        try:
            is_known = state.has(image.name, FileVersion.of(folder / image.name, image.digest))
            if is_known:
                async with writing:
                    line = await asyncio.to_thread(state.line, image.name)
            else:
                version, line = await segment(image)
            if job.masks is not None:
                await asyncio.to_thread(_write_masks, job.masks, image.name, line, replace=not is_known)
        except (Unauthorized, Unreachable):
            raise
        except (ClientError, OSError, ValueError) as error:
            state.forget(image.name)
            run.failed.append((image, error))
            on_result(image, error)
            return
        masks = masks_of(line)
        run.refused += [_outside(box, line) for box in image.boxes if box.annotation_id not in masks]
        if is_known:
            run.known += 1
            on_result(image, None)
            return
        async with writing:
            await asyncio.to_thread(state.add, image.name, version, line)
        run.done += 1
        run.masks += len(masks)
        on_result(image, len(masks))

    await each(images, handle, job.jobs)
    return run


def masks_of(line: Mapping[str, Any]) -> dict[int, Mask]:
    """The masks in a line of the state, by the ids of their annotations."""
    return {
        int(annotation_id): Mask(**{**mask, "box": tuple(mask["box"]), "size": tuple(mask["size"])})
        for annotation_id, mask in line["masks"].items()
    }


def _is_inside(box: GivenBox, image: Embedded) -> bool:
    """Whether a part of the box is inside the image. The service refuses other boxes with their whole request."""
    x0, y0, x1, y1 = box.corners
    return x0 < image.width and x1 > 0 and y0 < image.height and y1 > 0


def _outside(box: GivenBox, line: Mapping[str, Any]) -> Refusal:
    size = f"{line['width']} x {line['height']}"
    return Refusal(box.place, f"the box has no part inside the image of {size} pixels; a box has pixels")


def _write_masks(folder: Path, name: str, line: Mapping[str, Any], *, replace: bool) -> None:
    """Write a PNG file for each mask, named by the image and the annotation. Each file is complete or not there."""
    place = folder / PurePath(name).parent
    place.mkdir(parents=True, exist_ok=True)
    for annotation_id, mask in masks_of(line).items():
        path = place / f"{PurePath(name).stem}_{annotation_id}.png"
        if replace or not path.exists():
            partial = path.with_name(f"{path.name}.partial")
            write_mask(mask, partial, crop=False)
            partial.replace(path)
