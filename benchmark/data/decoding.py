"""From an encoded image to the pixels that a network sees: RGB, resized, cropped. Pixel for pixel what torchvision does."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from benchmark.data.images import Preprocessing
from benchmark.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

Result = TypeVar("Result")

EDGE = 16  # bytes at either end of a file that `looks_whole` wants
JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"


def decode(content: bytes, name: str, preprocessing: Preprocessing) -> np.ndarray:
    """The pixels of one image, uint8 [3, H, W]. The orientation in EXIF is ignored, as everyone does on ImageNet.

    Raises:
        DataError: `content` is truncated, corrupt, or not an image of 8 bits a channel; it names the image.
    """
    return np.asarray(framed(picture(content, name), preprocessing)).transpose(2, 0, 1)


def picture(content: bytes, name: str) -> Image:
    """One image in RGB and in its own size, whatever its format; the file name says nothing about that.

    Raises:
        DataError: as for `decode`.
    """
    return _opened(content, name, rgb)


def check_whole(content: bytes, name: str) -> None:
    """Decode an image and, where its format has them, compare its checksums: Pillow fills a PNG up where data are missing.

    Raises:
        DataError: as for `decode`.
    """
    picture(content, name)
    _opened(content, name, lambda stored: stored.verify())


def looks_whole(first: bytes, last: bytes) -> bool:
    """Whether the first and last `EDGE` bytes are those of a JPEG or PNG that was written to its end."""
    if first.startswith(JPEG_START):
        return last.endswith(JPEG_END)
    return first.startswith(PNG_START) and last.endswith(PNG_END)


def _opened(content: bytes, name: str, use: Callable[[Image], Result]) -> Result:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as stored:
            return use(stored)
    except UnidentifiedImageError as error:
        raise DataError(f"{name} is corrupt: its {len(content)} bytes are not an image.") from error
    except Exception as error:  # whatever Pillow raises on a corrupt image
        raise DataError(f"{name} is corrupt: {error}") from error


def rgb(image: Image) -> Image:
    """Any 8-bit image in RGB; transparency is dropped. Raises ValueError for deeper ones, which would be clipped."""
    if image.mode[0] in "IF":
        raise ValueError(f"mode {image.mode} is not 8 bits a channel")
    if "transparency" in image.info:
        # Gives the same colours; Pillow warns where a palette's transparency is lost without this step.
        image = image.convert("RGBA")
    return image.convert("RGB")


def framed(image: Image, preprocessing: Preprocessing) -> Image:
    """Resized by its short side, then cropped in the middle. An image smaller than the crop is enlarged to fit it."""
    from PIL import Image

    shortest = min(image.size)
    crop, short = preprocessing.crop, preprocessing.resize
    if short is None and crop is not None and shortest < crop:
        short = crop
    if short is not None:
        width, height = (int(short * side / shortest) for side in image.size)
        image = image.resize((width, height), Image.Resampling[preprocessing.interpolation.upper()])
    if crop is not None:
        # Half pixels go to the even side, as in torchvision.
        left, top = (round((side - crop) / 2) for side in image.size)
        image = image.crop((left, top, left + crop, top + crop))
    return image
