"""Cutting a region out of a decoded image."""

from dataclasses import replace

from service.errors import InvalidRequest, UnusableAspectRatio
from service.sam.decoded_image import DecodedImage
from service.sam.image_guards import ImageLimits, check_shape
from service.sam.region import Region
from service.sam.transforms import Size


def cut(image: DecodedImage, region: Region | None, limits: ImageLimits) -> DecodedImage:
    """Return a region of a decoded image; the same image where the region is all of it, or None.

    Levels and bands were applied to the whole image before, so that a region and the whole image show the same pixels.

    Args:
        image: Whole image, perhaps at reduced scale.
        region: Part of the image at full resolution.
        limits: Sizes that the model takes.

    Raises:
        InvalidRequest: The region has a part outside the image.
        UnusableAspectRatio: The region is too long and thin.
    """
    if region is None:
        return image
    _check(region, image.size, limits)
    if region.size == image.size:
        return image
    pixels = image.pixels
    # A reduced scale rounds the region to whole pixels of that scale, which are at most half a pixel of the frame.
    across, down = pixels.width / image.size[1], pixels.height / image.size[0]
    x0, y0, x1, y1 = region.corners
    part = pixels.crop((round(x0 * across), round(y0 * down), round(x1 * across), round(y1 * down)))
    return replace(image, pixels=part, region=region)


def _check(region: Region, size: Size, limits: ImageLimits) -> None:
    height, width = size
    if not region.lies_in(size):
        message = f"the region {region} does not lie in the upright image of {width} x {height} pixels."
        raise InvalidRequest(
            f"/region: {message} Send x0,y0,x1,y1 with x1 up to {width} and y1 up to {height}.",
            extra={"errors": [{"where": "/region", "message": message}], "width": width, "height": height},
        )
    try:
        check_shape(region.size, limits)
    except UnusableAspectRatio as error:
        raise UnusableAspectRatio(
            f"The region {region} is too long and thin. Send one with more pixels across.", extra=error.extra
        ) from error
