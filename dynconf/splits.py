"""The two recordings that a stopping rule is judged with: they must be of one network, and of different images."""

from __future__ import annotations

import hashlib
from pathlib import Path

from dynconf.recording import ARRAY_FILES, Recording, RecordingError, load_recording

CALIBRATION, TEST = "calibration", "test"


def load_splits(*paths: Path | str, allow_shared_images: bool = False) -> tuple[Recording, Recording]:
    """The calibration and the test recording.

    Args:
        paths: a folder with `calibration` and `test` in it, each a folder or a file of arrays (`.npz`, `.safetensors`); or
            these two themselves, in either order.
        allow_shared_images: see `check_splits`.

    Raises:
        RecordingError: one of them is missing or damaged, or they do not belong together; the message names the path.
    """
    if len(paths) == 1:
        found = {name: _one_of(Path(paths[0]), name) for name in (CALIBRATION, TEST)}
        recordings = {name: load_recording(path) for name, path in found.items()}
        for name, recording in recordings.items():
            if (recording.split == TEST) != (name == TEST):
                raise RecordingError(
                    f"{found[name]} says that it is of the split {recording.split!r}, expected {name!r}"
                )
    elif len(paths) == 2:
        loaded = [load_recording(path) for path in paths]
        recordings = {TEST if recording.split == TEST else CALIBRATION: recording for recording in loaded}
        if len(recordings) < 2:
            raise RecordingError(
                f"{paths[0]} and {paths[1]} are of the splits {loaded[0].split!r} and {loaded[1].split!r}; "
                "expected a test recording and another one"
            )
    else:
        raise RecordingError(f"expected a folder, or a calibration and a test recording; found {len(paths)} paths")
    where = " and ".join(map(str, paths))
    try:
        check_splits(recordings[CALIBRATION], recordings[TEST], allow_shared_images=allow_shared_images)
    except RecordingError as error:
        raise RecordingError(f"{where}: {error}") from error
    return recordings[CALIBRATION], recordings[TEST]


def check_splits(calibration: Recording, test: Recording, *, allow_shared_images: bool = False) -> None:
    """Raise RecordingError unless the recordings have the same T, K and prelude, and no image in common.

    An image counts as shared if the largest sums of its logits are the same at every timestep. Coarse logits (spike counts,
    few timesteps) can be equal by chance, and some data sets have images twice: `allow_shared_images` is for them. The
    recordings of one run of the benchmark carry the same identity and are not looked at: it divides images by number.
    """
    for name, value in (
        ("timesteps", "timesteps"),
        ("classes", "num_classes"),
        ("prelude steps", "prelude_steps"),
    ):
        found, other = getattr(calibration.info, value), getattr(test.info, value)
        if found != other:
            raise RecordingError(f"the calibration recording has {found} {name}, the test recording {other}")
    if calibration.scales and test.scales and calibration.scales != test.scales:
        raise RecordingError(
            f"the calibration recording has the scales {list(calibration.scales)}, the test recording {list(test.scales)}"
        )
    identity = calibration.info.identity
    if allow_shared_images or (identity and identity == test.info.identity):
        return
    shared = shared_images(calibration, test)
    if shared:
        raise RecordingError(
            f"{shared} of {len(test)} test images have exactly the logits of a calibration image: thresholds must be chosen "
            "on images that are not tested on"
        )


def shared_images(calibration: Recording, test: Recording) -> int:
    """How many test images have the same largest sums of logits at every timestep as some calibration image."""
    seen = set(_fingerprints(calibration))
    return sum(fingerprint in seen for fingerprint in _fingerprints(test))


def _fingerprints(recording: Recording) -> list[bytes]:
    top = recording.evidence.top.flatten(1).contiguous().numpy()
    answers = recording.predictions.contiguous().numpy()
    return [
        hashlib.blake2b(sums.tobytes() + answer.tobytes(), digest_size=16).digest()
        for sums, answer in zip(top, answers, strict=True)
    ]


def _one_of(folder: Path, name: str) -> Path:
    """The folder or file of one split."""
    candidates = [folder / name, *(folder / f"{name}{suffix}" for suffix in ARRAY_FILES)]
    found = [path for path in candidates if path.exists()]
    if not found:
        raise RecordingError(f"{folder} has no {name} recording: none of {', '.join(path.name for path in candidates)}")
    if len(found) > 1:
        raise RecordingError(f"{folder} has more than one {name} recording: {', '.join(path.name for path in found)}")
    return found[0]
