"""Memory of NumPy arrays that is kept when they are gone, for the next of about their size.

A training step lets go of most of what it made, and the next step makes the same again. The C library gives large
pieces back to the system meanwhile, which hands them out page by page, each filled with zeros at its first touch: that
took up to half of the time of steps that stream through large arrays. Kept memory has its pages.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import mmap
import threading

import numpy as np

_PAGE = mmap.PAGESIZE
_HUGE = 4 << 20  # bytes: from here on larger pages are asked for, as NumPy does
_SLACK = 16 << 20  # bytes
_MAPPING = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
_BYTE = np.dtype(np.uint8)

# Free pieces by their size, and when a piece of that size was last wanted. What is done to them while an array is made
# or dies is one step of the interpreter each, so that it needs no lock.
_free: dict[int, list[mmap.mmap]] = {}
_wanted: dict[int, int] = {}
_times = itertools.count()


class _Lent(np.ndarray):
    """The owner of an array's memory, and of that of all its views: with the last of them gone, it is free again."""

    def __del__(self, free=_free, kind=mmap.mmap):  # at the interpreter's end, globals may go first
        piece = self.base
        if type(piece) is kind:  # else this is a view of an owner, or NumPy's copy of one
            free[len(piece)].append(piece)


class _Account:
    """What is known of all pieces together.

    Attributes:
        lock: held while it changes, and while memory is asked of the system or given back. The thread that holds it
            may come again: whatever is collected meanwhile may ask for memory.
        held: bytes in all pieces, free or not.
        peak: bytes that were not free, at most, of the moments at which memory was asked of the system.
    """

    def __init__(self):
        self.lock = threading.RLock()
        self.held = self.peak = 0


_account = _Account()


def take(shape: int | tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A C-contiguous array with unspecified contents, from a page's start on.

    Raises:
        MemoryError: the system has no such piece of memory.
    """
    count = math.prod(shape) if type(shape) is tuple else shape
    wanted = max(count * dtype.itemsize, 8)  # an array without elements has an address, too
    # Sizes in steps of a sixteenth to an eighth, so that batches of about the same length share pieces.
    step = max(1 << wanted.bit_length() - 4, _PAGE)
    size = -(-wanted // step) * step
    _wanted[size] = next(_times)
    try:
        piece = _free[size].pop()
    except (KeyError, IndexError):
        piece = _ask(size)
    return np.ndarray(shape, dtype, _Lent(wanted, _BYTE, piece))


def free_bytes() -> int:
    """Bytes that are kept and belong to no array."""
    return sum(size * len(pieces) for size, pieces in list(_free.items()))


def release() -> int:
    """Gives all memory that belongs to no array back to the system; returns how many bytes."""
    with _account.lock:
        return _drop(_account.held)


def _ask(size: int) -> mmap.mmap:
    """A new piece. Before that, free ones go back of what would be held beyond five quarters of the peak."""
    with _account.lock:
        _free.setdefault(size, [])
        _account.peak = max(_account.peak, _account.held - free_bytes() + size)
        _drop(_account.held + size - _account.peak * 5 // 4 - _SLACK)
        try:
            piece = mmap.mmap(-1, size, **_MAPPING)
        except OSError:
            _drop(_account.held)
            try:
                piece = mmap.mmap(-1, size, **_MAPPING)
            except OSError as error:
                raise MemoryError(
                    f"memory: expected {size:,} bytes more, which the system does not have; got {_account.held:,} "
                    "bytes in use by arrays: let go of some, or make batches smaller"
                ) from error
        _account.held += size
    if size >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # the system has none, and is as right with others
            piece.madvise(mmap.MADV_HUGEPAGE)
    return piece


def _drop(surplus: int) -> int:
    """Gives free pieces back until `surplus` bytes are gone or none is free, of the size first that was not wanted for
    longest; returns how many bytes."""
    dropped = 0
    for size in sorted(_free, key=lambda size: _wanted[size]):
        while dropped < surplus:
            try:
                _free[size].pop()  # nothing else refers to it: it is unmapped here
            except IndexError:  # no piece of this size is left, or another thread has just taken the last
                break
            _account.held -= size
            dropped += size
    return dropped
