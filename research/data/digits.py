"""Handwritten digits that come with an installed package: scikit-learn's, 8x8, 1797 of them.

Each picture is the number of inked pixels (0 to 16) in the 4x4 blocks of a 32x32 bitmap (Alpaydin and Kaynak, 1998,
test set of the UCI repository's "Optical Recognition of Handwritten Digits").
"""

import importlib.util
import zlib
from pathlib import Path

import numpy as np

from research.config import config, structure
from research.data.base import Dataset, Loaded, Split, assemble, complete
from research.errors import UserError


@config
class Digits(Dataset):
    """Scikit-learn's handwritten digits: 1797 pictures of 8x8, ten classes, on any machine."""

    validation: float = structure(0.1, "fraction of the examples to choose by", within="(0, 1)")
    test: float = structure(0.2, "fraction of the examples to be judged by", within="(0, 1)")

    def load(self) -> Loaded:
        everything = Split(*read_digits())
        splits = complete({"train": everything}, test=self.test, validation=self.validation)
        names = [str(digit) for digit in range(10)]
        return assemble("Digits", splits, names, kind="image", scale=1 / 16, background="dark", maximum=16.0)


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """All pictures (1797, 8, 8, 1) float32 from 0 to 16, and labels (1797,) int32.

    The packaged file is read directly, since importing sklearn.datasets takes longer than training a small network.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None:
        raise UserError("Digits: needs the package scikit-learn, which holds the pictures: pip install scikit-learn")
    path = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    try:
        table = np.loadtxt(path, delimiter=",", dtype=np.float32) if path.exists() else _ask_sklearn()
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"Digits: {path} is damaged ({error}); reinstall scikit-learn") from None
    return table[:, :-1].reshape(-1, 8, 8, 1), table[:, -1].astype(np.int32)


def _ask_sklearn() -> np.ndarray:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.column_stack([digits.data, digits.target]).astype(np.float32)
