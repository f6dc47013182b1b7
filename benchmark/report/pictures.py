"""The test images of a record, as thumbnails; only if they are provably the ones that were recorded."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmark import registry, weights
from benchmark.data.images import Images, Preprocessing
from benchmark.errors import BenchmarkError, DataError

if TYPE_CHECKING:
    from benchmark.records import ResultRecord
    from dynconf.recording import Recording

SIDE = 64  # larger images are made smaller

# A dataset may name its classes itself, in an attribute `class_names`.
CLASS_NAMES = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}


@dataclass(frozen=True)
class Pictures:
    """Test images; `brightest` is the pixel value that is shown as white."""

    images: Images
    brightest: float
    class_names: tuple[str, ...] = ()

    def name(self, label: int) -> str:
        """The name of a class, or its number."""
        return self.class_names[label] if label < len(self.class_names) else str(label)

    def thumbnail(self, index: int) -> str:
        """One image as a PNG in a data URI. Raises DataError if it cannot be decoded."""
        pixels = np.asarray(self.images.pixels[index : index + 1][0], dtype=np.float64) * (255.0 / self.brightest)
        pixels = pixels.round().clip(0, 255).astype(np.uint8)
        # Anything that is neither grey nor RGB is shown by its first channel.
        return data_uri(pixels[0] if len(pixels) != 3 else pixels.transpose(1, 2, 0), SIDE)

    @cached_property
    def is_tiny(self) -> bool:
        """Whether an image is so small that its pixels should stay squares when it is enlarged."""
        return max(self.images.pixels.shape[2:]) <= SIDE


def data_uri(pixels: np.ndarray, side: int | None = None) -> str:
    """uint8 [H, W] or [H, W, 3] as a PNG in a data URI, at most `side` pixels wide and high."""
    from PIL import Image

    image = Image.fromarray(pixels)
    if side is not None and max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.BOX)
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def find_pictures(record: ResultRecord, test: Recording, data_dir: Path | None) -> Pictures:
    """The images behind the test recording of a record.

    Raises BenchmarkError with the reason if the dataset is not there, or is not the one that was recorded.
    """
    spec = record.spec
    dataset = registry.load("datasets", spec.dataset)(data_dir)
    # Its own preprocessing divides by the largest pixel value, whatever that of the weights does.
    brightest = dataset.preprocessing.divisor
    class_names = tuple(map(str, getattr(dataset, "class_names", CLASS_NAMES.get(spec.dataset, ()))))
    preprocessing = _preprocessing(record) or dataset.preprocessing
    images = dataset.viewed(preprocessing).split(spec.split).first(spec.limit)
    recorded = dict(part.partition(":")[::2] for part in spec.dataset_fingerprint.split())
    if images.fingerprint != recorded.get(spec.split):
        raise DataError(
            f"the {spec.split} images of {spec.dataset} found here are not the recorded ones: their fingerprint is "
            f"{images.fingerprint}, that of the record {recorded.get(spec.split, 'unknown')}."
        )
    if not np.array_equal(images.labels, test.labels.numpy()):
        raise DataError(f"the labels of {spec.dataset} found here are not the recorded ones.")
    return Pictures(images, brightest if brightest > 1 else 255.0, class_names)


def _preprocessing(record: ResultRecord) -> Preprocessing | None:
    """That of the record, else that of the weights, if these can still be found by their name."""
    if record.spec.preprocessing:
        return Preprocessing.from_dict(record.spec.preprocessing)
    source = record.spec.weights.source
    if not source.startswith(("zoo:", "timm:")):
        return None
    try:
        return weights.describe(source, record.spec.model).preprocessing
    except BenchmarkError:
        return None  # the dataset's own then; a wrong guess is seen by the fingerprint
