"""Readers: IDX, CSV, images, folders of images, and the sets that the library knows by name. Nothing here downloads."""

from __future__ import annotations

import csv
import gzip
import math
import struct
from importlib import resources
from pathlib import Path
from typing import NoReturn

import numpy as np

from .dataset import Dataset

_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}


def read_idx(path: str | Path) -> np.ndarray:
    """The array in an IDX file (the format of MNIST), gzipped or not.

    Raises:
        ValueError: not an IDX file, or its length does not fit its header.
    """
    path = Path(path)
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _IDX_TYPES:
        raise ValueError(f"read_idx: expected an IDX file, got {path} that starts with {data[:4]!r}")
    dtype, rank = np.dtype(_IDX_TYPES[data[2]]), data[3]
    start = 4 + 4 * rank
    if len(data) < start:
        raise ValueError(f"read_idx: expected {rank} sizes in the header of {path}, got {len(data)} bytes in all")
    shape = struct.unpack(f">{rank}I", data[4:start])
    wanted = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if len(data) - start != wanted:
        raise ValueError(f"read_idx: expected {wanted} bytes for shape {shape} in {path}, got {len(data) - start}")
    return np.frombuffer(data, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def read_csv(path: str | Path, target: str | int | None = None, delimiter: str = ",") -> tuple[np.ndarray, ...]:
    """A table of numbers with a header line, gzipped or not.

    Args:
        path: the file.
        target: the column (name or position) to split off, or None.
        delimiter: between columns.

    Returns:
        (features [rows, columns] float32,) or (features, target [rows] float32).

    Raises:
        ValueError: a cell is no number or missing (line and column are named), or there is no such column.
    """
    path = Path(path)
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
        names, *rows = [row for row in csv.reader(file, delimiter=delimiter) if row] or [[]]
    for line, row in enumerate(rows, start=2):
        if len(row) != len(names):
            raise ValueError(f"read_csv: expected {len(names)} cells in row {line} of {path}, got {len(row)}")
    try:
        table = np.array(rows, np.float32).reshape(len(rows), len(names))
    except ValueError:
        table = None
    if table is None or np.isnan(table).any():
        _refuse_first_bad_cell(path, names, rows)
    if target is None:
        return (table,)
    if isinstance(target, str) and target not in names:
        raise ValueError(f"read_csv: expected target as one of the columns {', '.join(names)}, got {target!r}")
    position = names.index(target) if isinstance(target, str) else range(len(names))[target]
    return np.delete(table, position, axis=1), table[:, position].copy()


def _refuse_first_bad_cell(path: Path, names: list[str], rows: list[list[str]]) -> NoReturn:
    for line, row in enumerate(rows, start=2):
        for name, cell in zip(names, row):
            try:
                good = not math.isnan(float(cell))
            except ValueError:
                good = False
            if not good:
                raise ValueError(f"read_csv: expected a number in row {line}, column {name!r} of {path}, got {cell!r}")
    raise ValueError(f"read_csv: expected numbers within float32's range in {path}")


def read_csv_header(path: str | Path, delimiter: str = ",") -> list[str]:
    """The names of the columns of a table that `read_csv` reads."""
    path = Path(path)
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
        return next(csv.reader(file, delimiter=delimiter), [])


def read_image(path: str | Path, size: tuple[int, int] | None = None, grayscale: bool = False) -> np.ndarray:
    """An image file (PNG, JPEG and what else Pillow reads) as [C, H, W] float32 in 0..1.

    Args:
        path: the file.
        size: (height, width) to which it is resized, bilinearly; None takes it as it is.
        grayscale: one channel instead of three. What is transparent counts as white.

    Raises:
        ValueError: no image, or a damaged one.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            image = file.convert("RGBA") if file.has_transparency_data else file.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"read_image: expected an image such as PNG or JPEG, got {path}: {error}") from None
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if grayscale else "RGB")
    if size is not None:
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.float32) / 255
    return np.ascontiguousarray(pixels[None] if grayscale else pixels.transpose(2, 0, 1))


def read_drawing(path: str | Path, size: int, margin: int = 0) -> np.ndarray:
    """A picture of one thing on a plain ground, brought into the form that sets of digits and garments have: bright on
    black, cut to the thing, its longer side filling all but the margin, its centre of mass in the middle of a square.

    Args:
        path: an image file; dark on bright (a pen on paper) is turned round.
        size: of the square, in pixels.
        margin: pixels left free on each side (MNIST's digits: 4).

    Returns:
        [1, size, size] float32 in 0..1.

    Raises:
        ValueError: no image, or nothing to be seen on it.
    """
    from PIL import Image

    (picture,) = read_image(path, grayscale=True)
    ground = np.median(np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]]))
    ink = np.abs(picture - ground)
    if ink.max() < 0.1:
        raise ValueError(f"read_drawing: expected something drawn on a plain ground, got {path} of a single shade")
    ink /= ink.max()
    rows, columns = (np.flatnonzero((ink > 0.25).any(axis=axis)) for axis in (1, 0))
    thing = Image.fromarray(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    scale = (size - 2 * margin) / max(thing.size)
    width, height = (max(1, round(length * scale)) for length in thing.size)
    thing = np.asarray(thing.resize((width, height), Image.Resampling.BILINEAR))
    square = np.zeros((1, size, size), np.float32)
    top, left = (
        int(np.clip(round((size - 1) / 2 - mass @ np.arange(len(mass)) / mass.sum()), 0, size - len(mass)))
        for mass in (thing.sum(axis=1), thing.sum(axis=0))
    )
    square[0, top : top + height, left : left + width] = thing
    return square


class ImageFolder(Dataset):
    """Images in one folder a class: `root/cat/1.png`, `root/dog/2.jpg`.

    Examples are (image [C, H, W] float32 in 0..1, label int64). Labels follow the folders' names in order.

    Args:
        root: the folder of folders.
        size: (height, width) to which each image is resized; None takes them as they are (then all must agree).
        grayscale: one channel instead of three.

    Attributes:
        classes: the folders' names.
    """

    def __init__(self, root: str | Path, size: tuple[int, int] | None = None, grayscale: bool = False):
        root = Path(root)
        if not root.is_dir():
            raise ValueError(f"ImageFolder: expected root as a folder, got {root}")
        self.classes = sorted(path.name for path in root.iterdir() if path.is_dir())
        self.size, self.grayscale = size, grayscale
        self.paths, self.labels = [], []
        for label, name in enumerate(self.classes):
            found = sorted(p for p in (root / name).rglob("*") if p.suffix.lower() in _IMAGE_SUFFIXES)
            self.paths += found
            self.labels += [label] * len(found)
        if not self.paths:
            raise ValueError(f"ImageFolder: expected images in folders below {root}, got none")

    def __len__(self) -> int:
        return len(self.paths)

    def example(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return read_image(self.paths[index], self.size, self.grayscale), np.int64(self.labels[index])


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """The UCI handwritten digits that come with the library: images [1797, 1, 8, 8] in 0..1, labels [1797]."""
    packed = resources.files(__package__).joinpath("digits.csv.gz").read_bytes()
    table = np.loadtxt(gzip.decompress(packed).decode().splitlines(), delimiter=",", dtype=np.float32)
    return table[:, :-1].reshape(-1, 1, 8, 8) / 16, table[:, -1].astype(np.int64)


def load_fashion_mnist(folder: str | Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Fashion-MNIST from its four IDX files (Debian's package `dataset-fashion-mnist` brings them).

    Returns:
        training images [60000, 1, 28, 28] in 0..1 and labels, test images [10000, 1, 28, 28] and labels.

    Raises:
        FileNotFoundError: a file is not there; the message says what brings it.
    """
    parts = []
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            candidates = [Path(folder) / f"{part}-{kind}-ubyte{suffix}" for suffix in (".gz", "")]
            path = next((p for p in candidates if p.is_file()), None)
            if path is None:
                raise FileNotFoundError(
                    f"load_fashion_mnist: expected {candidates[0].name} in {folder}; "
                    "`apt-get install dataset-fashion-mnist` puts it in /usr/share/datasets/fashion-mnist"
                )
            array = read_idx(path)
            parts.append(array[:, None].astype(np.float32) / 255 if kind == "images-idx3" else array.astype(np.int64))
    return tuple(parts)
