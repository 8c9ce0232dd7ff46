"""Batches of a dataset, in an order that a seed repeats, prepared ahead by other processes if asked.

The order and the augmentation of a batch depend on (seed, epoch, batch) alone: not on how many workers there are, and
not on what ran before. So a run that is resumed in the middle of an epoch sees the very batches it would have seen.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from ...kernels.check import check_size
from ...layers.random import generator
from ...layers.tensor import Tensor
from .dataset import Dataset, as_dataset


class DataLoader:
    """Iterates over a dataset in batches: tuples of tensors on the CPU.

    Args:
        dataset: a Dataset, or anything with a length that gives examples by number.
        batch_size: examples a batch.
        shuffle: a new order every epoch.
        drop_last: leave out a last batch that is smaller.
        augment: `augment(first_array, rng) -> array` applied to each batch's first array; see `augment.py`.
        num_workers: processes that prepare batches ahead; 0 prepares them in this one. They are spawned, not forked
            (Numba's threads do not survive a fork), so dataset and augmentation must be picklable, and a script that
            uses workers needs `if __name__ == "__main__":`.
        seed: of order and augmentation; None draws one from the generator that `rv.seed` sets.

    Attributes:
        epoch: counts the passes; each iteration over the loader is one.
        skip: batches to leave out at the start of the next pass, for resuming inside an epoch.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int = 1,
        shuffle: bool = False,
        drop_last: bool = False,
        augment: Callable | None = None,
        num_workers: int = 0,
        seed: int | None = None,
    ):
        check_size("DataLoader", "batch_size", batch_size, 1)
        check_size("DataLoader", "num_workers", num_workers)
        self.dataset = as_dataset(dataset)
        self.batch_size, self.shuffle, self.drop_last = batch_size, shuffle, drop_last
        self.augment, self.num_workers = augment, num_workers
        self.seed = int(generator().integers(0, 2**31)) if seed is None else seed
        self.epoch = 0
        self.skip = 0
        self._workers: ProcessPoolExecutor | None = None

    def __len__(self) -> int:
        """Batches an epoch."""
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        epoch, skip = self.epoch, self.skip
        self.epoch, self.skip = epoch + 1, 0
        order = np.arange(len(self.dataset))
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(order)
        jobs = (
            (order[i * self.batch_size : (i + 1) * self.batch_size], [self.seed, epoch, i])
            for i in range(skip, len(self))
        )
        for arrays in self._prepared_here(jobs) if self.num_workers == 0 else self._prepared_ahead(jobs):
            yield tuple(Tensor(array) for array in arrays)

    def _prepared_here(self, jobs):
        for indices, seed in jobs:
            yield prepare(self.dataset, self.augment, indices, seed)

    def _prepared_ahead(self, jobs):
        """Keeps two batches a worker under way, and hands them out in order."""
        if self._workers is None:
            self._workers = ProcessPoolExecutor(
                self.num_workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_remember,
                initargs=(self.dataset, self.augment),
            )
        pending = deque()
        for job in jobs:
            pending.append(self._workers.submit(_prepare_remembered, *job))
            if len(pending) > 2 * self.num_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def close(self) -> None:
        """Ends the workers; the next pass starts new ones."""
        if self._workers is not None:
            self._workers.shutdown(cancel_futures=True)
            self._workers = None


def prepare(dataset: Dataset, augment, indices, seed) -> tuple[np.ndarray, ...]:
    """One batch: fetched, and its first array augmented with randomness from `seed`."""
    arrays = dataset.fetch(indices)
    if augment is None:
        return arrays
    first, *rest = arrays
    return np.ascontiguousarray(augment(first, np.random.default_rng(seed))), *rest


_remembered: tuple = ()


def _remember(dataset, augment) -> None:
    global _remembered
    _remembered = dataset, augment


def _prepare_remembered(indices, seed):
    return prepare(*_remembered, indices, seed)
