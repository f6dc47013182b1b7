"""Pickled arrays from files that anyone may have written: nothing in them is executed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from benchmark.errors import DataError


class _ArraysOnly(pickle.Unpickler):
    """Builds numpy arrays and plain values; anything else in the file is refused, not executed."""

    what = ""
    _allowed = frozenset(
        {
            ("multiarray", "_reconstruct"),
            ("numeric", "_frombuffer"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        short = module.removeprefix("numpy.core.").removeprefix("numpy._core.")
        if (short, name) not in self._allowed:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a {self.what}")
        return super().find_class(module.replace("numpy.core.", "numpy._core."), name)


def unpickle_arrays(path: Path, what: str) -> dict[str, Any]:
    """The dict of arrays and plain values in a file, also one that Python 2 wrote.

    Args:
        path: the file.
        what: what it should be, for messages: `CIFAR-10 batch`.

    Raises:
        DataError: the file is missing, damaged, or holds anything else; it names the file.
    """
    try:
        with path.open("rb") as stream:
            unpickler = _ArraysOnly(stream, encoding="latin1")
            unpickler.what = what
            content = unpickler.load()
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; the copy is incomplete.") from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a {what}.")
    return content
