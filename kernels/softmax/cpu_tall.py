"""Softmax along an axis of many elements whose neighbours lie far apart, on NumPy arrays: x is read once.

A strip of columns, as wide as stays in the caches over the whole axis, is swept from the first row to the last, a
few rows at a time. Their largest elements so far are what the exponentials are taken to, which are kept; sums shrink
when a larger element comes (M. Milakov and N. Gimelshein, Online normalizer calculation for softmax, 2018), and at the
end the kept ones shrink by as much. Rows of a strip lie too far apart for the processor to foresee the next.
"""

import numpy as np
from numba import prange

from ..cpu_jit import kernel, serial_kernel
from ..cpu_lines import ask_for, lowest_of, memory, zero_of
from ..cpu_math import decay, log, wide_vectors
from ..cpu_streams import end_streams, is_past_caches, stream_line
from ..cpu_threads import thread_count
from ..memory import workspace

_KEPT_BYTES = 1 << 22  # of a strip: narrower ones stay in the second cache, but their rows take longer to begin
_LINE = 16  # columns that a strip's width is a multiple of: whole cache lines
_TOGETHER = 8  # rows that share a largest element
_STRIPS = 4  # for each thread, at least
_WORTH_THREADS = 1 << 13  # elements; fewer are done before another thread has woken up


@serial_kernel
def _raise_peaks(x, start, pitch, rows, count, so_far, peaks, at, total):
    """so_far[i] = the largest of itself and of column i of some rows, and peaks[at + i] the same; total[i], a sum of
    e^(x - so_far[i]), shrinks with it."""
    wide_vectors()
    for i in range(count):
        peaks[at + i] = so_far[i]
    for row in range(rows):
        here = start + row * pitch
        for i in range(count):
            peaks[at + i] = x[here + i] if x[here + i] > peaks[at + i] else peaks[at + i]
    for i in range(count):
        raised = peaks[at + i]
        total[i] = total[i] * decay(so_far[i] - raised) if raised > so_far[i] else total[i]
        so_far[i] = raised


@serial_kernel
def _keep_decay(x, start, count, so_far, total, kept, to):
    """kept[to + i] = e^(x[start + i] - so_far[i]), 0 for -inf even where all are; total[i] += kept[to + i]."""
    wide_vectors()
    for i in range(count):
        term = decay(x[start + i] - so_far[i])
        term = zero_of(x) if x[start + i] == lowest_of(x) else term
        kept[to + i] = term
        total[i] += term


@serial_kernel
def _keep(x, start, count, so_far, total, kept, to):
    """kept[to + i] = x[start + i]; total as above."""
    wide_vectors()
    for i in range(count):
        value = x[start + i]
        kept[to + i] = value
        total[i] = total[i] if value == lowest_of(x) else total[i] + decay(value - so_far[i])


@serial_kernel
def _shrunk_line(kept, start, count, factor, y, to):
    for i in range(count):
        y[to + i] = kept[start + i] * factor[i]


@serial_kernel
def _shifted_line(kept, start, count, so_far, log_total, y, to):
    for i in range(count):
        y[to + i] = kept[start + i] - so_far[i] - log_total[i]


@kernel
def softmax_tall_kernel(x, logarithmic, kept, peaks, lines, y):
    """x [outer, n, inner] -> y, softmax or log_softmax along n.

    Args:
        kept: [parts, n, columns of a strip] scratch. peaks: [parts, groups of rows, columns] scratch.
        lines: [parts, 3, columns] scratch; [parts, 4, columns] for results that go around the caches.
    """
    outer, n, inner = x.shape
    parts, _, strip = kept.shape
    streamed, strips = lines.shape[1] > 3, (inner + strip - 1) // strip
    jobs = outer * strips
    for part in prange(parts):
        held, marks = memory(kept[part]), memory(peaks[part])
        so_far, total, factor = memory(lines[part, 0]), memory(lines[part, 1]), memory(lines[part, 2])
        for job in range(part * jobs // parts, (part + 1) * jobs // parts):
            o, start = job // strips, job % strips * strip
            count, first = min(strip, inner - start), o * n * inner + start
            for i in range(count):
                so_far[i], total[i] = -np.inf, 0
            for row in range(0, n, _TOGETHER):
                rows = min(_TOGETHER, n - row)
                for r in range(row + _TOGETHER, min(row + 2 * _TOGETHER, n)):
                    ask_for(memory(x), first + r * inner, count)
                at = row // _TOGETHER * strip
                _raise_peaks(memory(x), first + row * inner, inner, rows, count, so_far, marks, at, total)
                for r in range(row, row + rows):
                    if logarithmic:
                        _keep(memory(x), first + r * inner, count, so_far, total, held, r * strip)
                    else:
                        _keep_decay(memory(x), first + r * inner, count, so_far, total, held, r * strip)
            for i in range(count):
                total[i] = log(total[i]) if logarithmic else 1 / total[i]
            for row in range(n):
                if not logarithmic and row % _TOGETHER == 0:
                    at = row // _TOGETHER * strip
                    for i in range(count):
                        factor[i] = decay(marks[at + i] - so_far[i]) * total[i]
                target, to = memory(y), first + row * inner
                if streamed:
                    target, to = memory(lines[part, 3]), 0
                if logarithmic:
                    _shifted_line(held, row * strip, count, so_far, total, target, to)
                else:
                    _shrunk_line(held, row * strip, count, factor, target, to)
                if streamed:
                    stream_line(target, 0, memory(y), first + row * inner, count)
        if streamed:
            end_streams()


def softmax_tall(x, logarithmic, y):
    """x, y: [outer, n, inner]."""
    outer, n, inner = x.shape
    threads = thread_count()
    strip = min(_KEPT_BYTES // (n * x.itemsize), outer * inner // (_STRIPS * threads), inner)
    strip = max(strip // _LINE, 1) * _LINE
    parts = max(1, min(threads, outer * -(-inner // strip)))
    kept = workspace("softmax kept", (parts, n, strip), x.dtype)
    peaks = workspace("softmax peaks", (parts, -(-n // _TOGETHER), strip), x.dtype)
    lines = workspace("softmax lines", (parts, 4 if is_past_caches(y.nbytes) else 3, strip), x.dtype)
    run = softmax_tall_kernel if x.size >= _WORTH_THREADS else softmax_tall_kernel.serial
    run(x, logarithmic, kept, peaks, lines, y)
