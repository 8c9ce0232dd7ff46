"""What a dataset is, and how one becomes several.

A dataset knows its length and fetches a whole batch at once: `dataset.fetch([3, 1, 4])` gives a tuple of arrays with
those examples stacked along the first axis. `dataset[3]` is one example. Anything else that has a length and gives
examples by number, such as a list of pairs, becomes one in a DataLoader.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from ...layers.random import generator


class Dataset:
    """Base of datasets. Subclasses define `__len__` and `__getitem__` (an example) or `fetch` (many at once)."""

    def __len__(self) -> int:
        raise TypeError(f"{type(self).__name__}: expected a subclass that defines __len__()")

    def example(self, index: int) -> tuple:
        """The arrays of one example."""
        if type(self).__getitem__ is not Dataset.__getitem__:
            return _as_tuple(self[index])
        if type(self).fetch is Dataset.fetch:
            raise TypeError(f"{type(self).__name__}: expected a subclass that defines __getitem__() or fetch()")
        return tuple(array[0] for array in self.fetch(np.array([index])))

    def fetch(self, indices) -> tuple[np.ndarray, ...]:
        """The arrays of several examples, stacked.

        Raises:
            ValueError: their shapes differ.
        """
        return tuple(self._stacked(arrays) for arrays in zip(*(self.example(int(i)) for i in indices)))

    def _stacked(self, arrays) -> np.ndarray:
        arrays = [np.asarray(array) for array in arrays]
        if len({array.shape for array in arrays}) > 1:
            shapes = ", ".join(str(shape) for shape in sorted({array.shape for array in arrays})[:5])
            raise ValueError(
                f"{type(self).__name__}: expected examples of one shape, got {shapes} in one batch; pad or crop them"
            )
        return np.stack(arrays)

    def __getitem__(self, index: int) -> tuple:
        length = len(self)
        if not -length <= index < length:
            raise IndexError(f"{type(self).__name__}: expected an index in [{-length}, {length}), got {index}")
        return self.example(int(index) % length)


def as_dataset(source) -> Dataset:
    """`source` itself if it fetches batches, else a Dataset of what it gives by number: a list of (x, y), say."""
    if hasattr(source, "fetch"):
        return source
    if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        raise TypeError(
            f"dataset: expected a Dataset, or what has a length and examples by number, got {type(source).__name__}"
        )
    return _Examples(source)


class _Examples(Dataset):
    """What has a length and gives examples by number."""

    def __init__(self, source):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple:
        return _as_tuple(self.source[index])


def _as_tuple(example) -> tuple:
    return tuple(example) if isinstance(example, (tuple, list)) else (example,)


class ArrayDataset(Dataset):
    """Arrays that share their first axis: images and labels, say. `TensorDataset` is its alias.

    Args:
        arrays: NumPy arrays or tensors of one length.
    """

    def __init__(self, *arrays: np.ndarray):
        if not arrays or len({len(array) for array in arrays}) != 1:
            raise ValueError(
                f"ArrayDataset: expected arrays of one length, got lengths {[len(array) for array in arrays]}"
            )
        self.arrays = tuple(np.asarray(array) for array in arrays)

    def __len__(self) -> int:
        return len(self.arrays[0])

    def fetch(self, indices) -> tuple[np.ndarray, ...]:
        return tuple(array[indices] for array in self.arrays)


TensorDataset = ArrayDataset


class Subset(Dataset):
    """Some of a dataset's examples.

    Args:
        dataset: the whole.
        indices: which of its examples, in this order.
    """

    def __init__(self, dataset: Dataset, indices: Sequence[int]):
        self.dataset, self.indices = as_dataset(dataset), np.asarray(indices, dtype=np.int64)
        if self.indices.size and (self.indices.min() < 0 or self.indices.max() >= len(dataset)):
            raise ValueError(f"Subset: expected indices in [0, {len(dataset)}), got {self.indices.tolist()[:10]}")

    def __len__(self) -> int:
        return len(self.indices)

    def fetch(self, indices) -> tuple[np.ndarray, ...]:
        return self.dataset.fetch(self.indices[indices])


class Transformed(Dataset):
    """A dataset whose first array passes through a function of the batch, such as a normalisation.

    Args:
        dataset: where examples come from.
        transform: arrays of a batch [N, ...] -> arrays of a batch.
    """

    def __init__(self, dataset: Dataset, transform: Callable[[np.ndarray], np.ndarray]):
        self.dataset, self.transform = as_dataset(dataset), transform

    def __len__(self) -> int:
        return len(self.dataset)

    def fetch(self, indices) -> tuple[np.ndarray, ...]:
        first, *rest = self.dataset.fetch(indices)
        return self.transform(first), *rest


def random_split(dataset: Dataset, lengths: Sequence[float], stratify=None) -> list[Subset]:
    """Parts of a dataset, drawn at random (`rv.seed` repeats the draw) and without overlap.

    Args:
        dataset: the whole.
        lengths: numbers of examples, or fractions that sum to 1: `[0.6, 0.2, 0.2]` for training, validation and test.
        stratify: labels, one an example: each part gets every label in the whole's proportion, as far as it divides.
    """
    total = len(dataset)
    if any(length < 0 for length in lengths):
        raise ValueError(f"random_split: expected lengths of 0 or more, got {list(lengths)}")
    if math.isclose(sum(lengths), 1.0) and not all(length in (0, 1) and isinstance(length, int) for length in lengths):
        fractions = list(lengths)
    elif sum(lengths) == total:
        fractions = [length / total for length in lengths] if total else list(lengths)
    else:
        raise ValueError(
            f"random_split: expected lengths that sum to {total} or fractions that sum to 1, got {list(lengths)}"
        )
    order = generator().permutation(total)
    if stratify is not None:
        labels = np.asarray(stratify)
        if len(labels) != total:
            raise ValueError(f"random_split: expected {total} labels to stratify by, got {len(labels)}")
        order = _interleave_by_label(order, labels)
    bounds = np.rint(np.cumsum([0.0, *fractions]) * total).astype(int)
    return [Subset(dataset, order[a:b]) for a, b in itertools.pairwise(bounds)]


def _interleave_by_label(order: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The order rearranged so that any stretch of it holds every label in the whole's proportion."""
    position = np.empty(len(order))
    for label in np.unique(labels):
        members = np.flatnonzero(labels[order] == label)
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    return order[np.argsort(position, kind="stable")]
