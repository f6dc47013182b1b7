"""The digits are scikit-learn's, read without importing it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from conftest import environment
from sklearn.datasets import load_digits

from benchmark.data import digits
from benchmark.data.digits import Digits


@pytest.mark.parametrize("found", [True, False], ids=["the file", "where the file lies elsewhere"])
def test_they_are_those_of_scikit_learn(found, monkeypatch):
    if not found:
        monkeypatch.setattr(digits, "find_spec", lambda name: None)
    theirs, ours = load_digits(), Digits()
    assert ours._pixels.dtype == np.uint8 and ours._labels.dtype == np.int64
    assert np.array_equal(ours._pixels[:, 0], theirs.images)
    assert np.array_equal(ours._labels, theirs.target)
    assert ours.split("test").fingerprint == "5b23b211881c"


def test_scikit_learn_is_not_imported():
    code = "import sys; from benchmark.data.digits import Digits; Digits(); sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=environment(), check=False).returncode == 0
