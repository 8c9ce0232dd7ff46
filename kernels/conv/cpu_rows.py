"""Convolutions of stride 2 with fewer multiplications, by combinations of rows: F(3, 4), F(4, 3) and F(4, 2).

Along the vertical axis a convolution of stride s is s convolutions of stride 1, of every s-th row of x each. A patch of
n rows of such a phase and its r taps give m = n - r + 1 rows of results with n products instead of m r
(`cpu_winograd.py` does the same along both axes, where there is no stride): with the points a_i, one of them infinity,

    results = A^T [(G taps) * (B^T rows)]       A: powers of a_i; G: powers, over the product of a_i - a_j;
                                                B: the coefficients of the product of x - a_j

(S. Winograd, "Arithmetic complexity of computations", 1980). The points are those of `cpu_winograd_transforms.py`, and
so are the errors, but once instead of twice. As there, an infinity becomes NaN in the whole patch that it lies in. A
phase with one tap is multiplied as it is.

Whole rows are combined, so nothing is turned around: a row of x is split into its columns' phases, where every tap of a
row is a mere shift; sums and results are vectors of positions that follow each other, and results go straight to their
place. A task is some rows of patches of an image.
"""

from functools import lru_cache
from math import sqrt
from typing import NamedTuple

import numpy as np
from numba import prange

from ..cpu_jit import kernel
from ..cpu_lines import memory, split_line
from ..cpu_product import REGISTER_BYTES
from ..memory import workspace
from .cpu_rows_products import (
    ACROSS,
    MOST_RESULTS,
    MOST_ROWS,
    RESULTS,
    ask_for_rows,
    combine_rows,
    finish_rows,
    multiply_one,
    multiply_three,
    multiply_two,
)
from .cpu_tiles import threads_of

_SHORT = (0.375, -0.375, 1.3, -1.3)
_LONG = (0, sqrt(0.5), -sqrt(0.5), sqrt(2), -sqrt(2))
_POINTS = {2: _SHORT, 3: _LONG, 4: _LONG}  # by the taps of a phase; and infinity
_NEAR_BYTES = 1 << 16  # of all combined rows, at so many positions as are summed at a time: in the nearest caches
_LINES_BYTES = 1 << 18  # of all combined rows of a task
_WORTH = 0.8  # of the multiplications of the plain sum, at most
_FEWEST = 32  # results; with fewer, combining rows takes longer than it saves


class Plan(NamedTuple):
    """How rows are read, combined and summed; numbers for kernels.

    Attributes:
        rows: of results that a patch gives.
        phases: [phases of rows, 4] taps; rows of a patch; the first of its products, and how many they are.
        reads: [products, MOST_ROWS] B^T, factors: [products, MOST_RESULTS] A, taps: [products, MOST_RESULTS] G.
        bounds: the products of each kind, kind k being bounds[k]..bounds[k + 1] - 1; all of a kind have the same terms.
        members: [phases of rows] which of its kind a phase is; terms: [kinds] of one product.
        columns: [taps of a row, 2] phase and offset of a tap's columns.
        width: of a row's phase, with all that taps read.
        bands: rows of patches of a task; their positions are summed with what lies between them.
    """

    rows: int
    phases: np.ndarray
    reads: np.ndarray
    factors: np.ndarray
    taps: np.ndarray
    bounds: np.ndarray
    members: np.ndarray
    terms: np.ndarray
    columns: np.ndarray
    width: int
    bands: int

    @property
    def products(self) -> np.ndarray:
        """How many of each kind."""
        return np.diff(self.bounds)


def suits(shape) -> bool:
    """Whether this way is open for a convolution, and shorter."""
    if (
        shape.stride[1] != 2
        or not 3 <= shape.kernel[1] <= 8
        or (shape.groups, shape.kernel[0], shape.padding[0], shape.input[0], shape.output[0]) != (1, 1, 0, 1, 1)
        or shape.dilation[1] != 1
        or shape.out_channels < _FEWEST
    ):
        return False
    plan, lanes = plan_of(shape, 4), REGISTER_BYTES // 4
    lines = int(plan.products @ plan.terms) // shape.kernel[2] * shape.stride[2]
    if lines * (ACROSS + 1) * REGISTER_BYTES > _NEAR_BYTES:
        return False
    results, tasks = -(-shape.out_channels // RESULTS) * RESULTS, -(-shape.output[1] // (plan.rows * plan.bands))
    positions = tasks * -(-((plan.bands - 1) * plan.width + shape.output[2]) // lanes) * lanes
    plain = shape.in_channels * shape.taps * shape.out_channels * shape.out_size
    return int(plan.products @ plan.terms) * results * positions <= _WORTH * plain


def _matrices(taps, rows):
    """A^T, G and B^T of F(rows, taps)."""
    points = np.array(_POINTS[taps])
    others = [np.delete(points, i) for i in range(len(points))]
    distances = np.array([np.prod(point - rest) for point, rest in zip(points, others)])
    results, kernel = np.vander(points, rows, increasing=True), np.vander(points, taps, increasing=True)
    reads = [[*np.poly(rest)[::-1], 0] for rest in others] + [np.poly(points)[::-1]]
    last = np.eye(len(points) + 1)[-1:]
    return (
        np.concatenate([results, last[:, -rows:]]).T,
        np.concatenate([kernel / distances[:, None], last[:, -taps:]]),
        np.array(reads),
    )


@lru_cache(maxsize=256)
def plan_of(shape, itemsize: int) -> Plan:
    """The plan of correlate."""
    kernel, stride, lanes = shape.kernel[1], shape.stride[1], REGISTER_BYTES // itemsize
    counts = [-(-(kernel - phase) // stride) for phase in range(stride)]
    most = max(counts)
    rows = len(_POINTS[most]) + 2 - most
    matrices = {False: _matrices(most, rows), True: (np.eye(rows), np.ones((rows, 1)), np.eye(rows))}
    kinds = [kind for kind in (False, True) if any((count == 1) is kind for count in counts)]
    bounds = np.cumsum([0, *(len(matrices[kind][2]) for kind in kinds)])
    products = int(bounds[-1])
    reads, factors = np.zeros((products, MOST_ROWS)), np.zeros((products, MOST_RESULTS))
    taps = np.zeros((products, MOST_RESULTS))
    for number, kind in enumerate(kinds):
        part = slice(bounds[number], bounds[number + 1])
        for whole, matrix in zip((factors, taps, reads), matrices[kind]):
            matrix = matrix.T if whole is factors else matrix
            whole[part, : matrix.shape[1]] = matrix
    phases, members = [], []
    for count in counts:
        number = kinds.index(count == 1)
        members.append(sum(phase[2] == bounds[number] for phase in phases))
        phases.append((count, rows + count - 1, bounds[number], bounds[number + 1] - bounds[number]))
    offsets = [divmod(tap * shape.dilation[2], shape.stride[2]) for tap in range(shape.kernel[2])]
    columns = np.array([(phase, offset) for offset, phase in offsets])
    across = shape.output[2]
    width = across + int(columns[:, 1].max())
    dtype = np.dtype(f"f{itemsize}")
    terms = [shape.in_channels * shape.kernel[2] * sum(p[2] == low for p in phases) for low in bounds[:-1]]
    row_bytes = itemsize * width * shape.stride[2] * shape.in_channels * int(sum(phase[3] for phase in phases))
    down = -(-shape.output[1] // rows)
    alone = -(-across // lanes) * lanes <= width  # no vector would reach into the next row of patches
    bands = 1 if alone else max(1, min(down, _LINES_BYTES // row_bytes))
    return Plan(
        rows,
        np.array(phases, np.int64),
        *(np.ascontiguousarray(matrix.astype(dtype)) for matrix in (reads, factors, taps)),
        np.array(bounds, np.int64),
        np.array(members, np.int64),
        np.array(terms, np.int64),
        columns.astype(np.int64),
        width,
        -(-down // -(-down // bands)),  # tasks of about one size
    )


@kernel
def rows_weight_kernel(weight, results, channels, kernel, step, phases, members, bounds, terms, taps, combined):
    """combined [products][results / RESULTS][terms][RESULTS] = G weight, zeros where there is no result.

    weight: flat [results, channels, *kernel]; step: the stride of rows; the others: of the Plan, taps being flat.
    """
    height, width = kernel
    groups, size = (results + RESULTS - 1) // RESULTS, channels * height * width
    for group in prange(groups):
        turned = np.zeros(size * RESULTS, weight.dtype)
        for r in range(min(RESULTS, results - group * RESULTS)):
            line = weight[(group * RESULTS + r) * size : (group * RESULTS + r + 1) * size]
            for i in range(size):
                turned[i * RESULTS + r] = line[i]
        base = 0
        for kind in range(len(terms)):
            for phase in range(len(phases)):
                if phases[phase, 2] != bounds[kind]:
                    continue
                for product in range(bounds[kind], bounds[kind + 1]):
                    to = base + (((product - bounds[kind]) * groups + group) * terms[kind]) * RESULTS
                    to += members[phase] * channels * width * RESULTS
                    for index in range(channels * width):
                        there = (index // width * height + phase) * width + index % width
                        line = combined[to + index * RESULTS : to + (index + 1) * RESULTS]
                        line[:] = weight.dtype.type(0)
                        for tap in range(phases[phase, 0]):
                            factor = taps[product * MOST_RESULTS + tap]
                            source = turned[(there + tap * step * width) * RESULTS :]
                            for r in range(RESULTS):
                                line[r] += factor * source[r]
            base += (bounds[kind + 1] - bounds[kind]) * groups * terms[kind] * RESULTS


@kernel
def rows_kernel(
    x, combined, bias, relu, z, batch, channels, results, source, result, step, padding, rows, phases, reads, factors,
    bounds, members, terms, columns, width, bands, frames, lines, sums,
):  # fmt: skip
    """z [batch, results, *result] = activation(weight x + bias), all flat.

    Args:
        combined: as rows_weight_kernel leaves the weight.
        bias: [results].
        source, result, step, padding: rows and columns.
        rows, ... bands: of the Plan; reads and factors flat.
        frames: scratch, a row a worker, for a channel's rows split into phases, and a row of zeros.
        lines: the same for rows combined, [products][phases of rows, channels, phases of columns][patches][width].
        sums: the same for sums, [products][RESULTS][ACROSS vectors].
    """
    lanes, workers, (height, across) = REGISTER_BYTES // x.itemsize, len(frames), result
    down = (height + rows - 1) // rows
    blocks = (down + bands - 1) // bands
    groups, products, kinds = (results + RESULTS - 1) // RESULTS, bounds[-1], len(terms)
    taps, sum_size = len(columns), RESULTS * ACROSS * lanes
    frame_pitch = (width + lanes - 1) // lanes * lanes
    row_size, read = step[1] * frame_pitch, min(source[1], max(0, frame_pitch * step[1] - padding[1]))
    # Lines of a product, and where the first one of each product begins; an odd number of vectors apart, or lines
    # would take each other's places in the nearest cache.
    line_size = ((bands * width + lanes - 1) // lanes + 1) // 2 * 2 * lanes + lanes
    for worker in prange(workers):
        frame, combined_rows, m = frames[worker], lines[worker], sums[worker]
        frame[:] = x.dtype.type(0)
        nowhere = len(frame) - row_size
        places = np.zeros(MOST_ROWS, np.int64)
        firsts, starts = np.zeros(products, np.int64), np.zeros(products, np.int64)
        # Where a term's line lies, from the first of its product on.
        table, first_place, there, start = np.zeros(terms.sum(), np.int64), np.zeros(kinds, np.int64), 0, 0
        for kind in range(kinds):
            first_place[kind] = terms[:kind].sum()
            for k in range(terms[kind]):
                line = k // taps * step[1] + columns[k % taps, 0]
                table[first_place[kind] + k] = line * line_size + columns[k % taps, 1]
            for product in range(bounds[kind], bounds[kind + 1]):
                firsts[product], starts[product] = there, start
                there += terms[kind] // taps * step[1] * line_size
                start += groups * terms[kind] * RESULTS
        for task in range(worker, batch * blocks, workers):
            n, block = task // blocks, task % blocks
            first, some = block * bands, min(bands, down - block * bands)
            top = first * rows * step[0] - padding[0]
            frame_rows = ((some - 1) * rows + MOST_ROWS - 1) * step[0] + len(phases)
            for channel in range(channels):
                plane = (n * channels + channel) * source[0] * source[1]
                for row in range(max(0, -top), min(frame_rows, source[0] - top) if read > 0 else 0):
                    split_line(
                        memory(x), plane + (top + row) * source[1], read, step[1], padding[1], memory(frames),
                        worker * len(frame) + row * row_size, frame_pitch,
                    )  # fmt: skip
                for phase in range(len(phases)):
                    product, count = phases[phase, 2], phases[phase, 3]
                    kind = 0 if product < bounds[1] else 1
                    product_size = terms[kind] // taps * step[1] * line_size
                    line = (members[phase] * channels + channel) * step[1]
                    for patch in range(some):
                        for i in range(MOST_ROWS):
                            row = (patch * rows + i) * step[0] + phase
                            inside = i < phases[phase, 1] and 0 <= top + row < source[0]
                            places[i] = row * row_size if inside else nowhere
                        for part in range(step[1]):
                            to = firsts[product] + (line + part) * line_size + patch * width
                            combine_rows(
                                frame, places, part * frame_pitch, reads, product, count, width, combined_rows, to,
                                product_size,
                            )  # fmt: skip
            length = (some - 1) * width + across
            vectors = (length + lanes - 1) // lanes
            chunks = (vectors + ACROSS - 1) // ACROSS
            asked = min(rows, height - first * rows) if bands == 1 else 0
            for index in range(groups * chunks):
                group, chunk = index // chunks, index % chunks
                low, high = vectors * chunk // chunks, vectors * (chunk + 1) // chunks
                begin, end = group * RESULTS, min((group + 1) * RESULTS, results)
                for product in range(products):
                    # For the results' memory it asks early: for as much of it with each product.
                    r = begin + (end - begin) * product // products
                    while r < begin + (end - begin) * (product + 1) // products:
                        to = ((n * results + r) * height + first * rows) * across + low * lanes
                        ask_for_rows(z, to, across, asked, (high - low) * lanes)
                        r += 1
                    kind = 0 if product < bounds[1] else 1
                    weights, base = starts[product] + group * terms[kind] * RESULTS, firsts[product] + low * lanes
                    to, place = product * sum_size, first_place[kind]
                    if high - low == 3:
                        multiply_three(combined, weights, combined_rows, base, table, place, terms[kind], m, to)
                    elif high - low == 2:
                        multiply_two(combined, weights, combined_rows, base, table, place, terms[kind], m, to)
                    else:
                        multiply_one(combined, weights, combined_rows, base, table, place, terms[kind], m, to)
                place, last = low * lanes, min(high * lanes, length)
                while place < last:
                    patch, column = place // width, place % width
                    count = min(across - column, last - place)
                    row = (first + patch) * rows
                    for r in range(begin, end if count > 0 else begin):
                        start, to = (r - begin) * ACROSS * lanes + place - low * lanes, (n * results + r) * height + row
                        finish_rows(
                            m, start, sum_size, products, factors, bias[r], relu, count, z, to * across + column,
                            across, min(rows, height - row),
                        )  # fmt: skip
                    place += min(width - column, last - place)


def correlate(x, weight, shape, z, bias=None, relu=False):
    """z [N, out, P] = activation(W x + bias) from x [N, in, input positions] and weight [out, in, taps]."""
    if z.size == 0:
        return
    plan, threads, lanes = plan_of(shape, x.itemsize), threads_of(shape), REGISTER_BYTES // x.itemsize
    groups = -(-shape.out_channels // RESULTS)
    terms = int(plan.products @ plan.terms)
    combined = workspace("conv weight", terms * groups * RESULTS, x.dtype)
    reads, factors, taps = (matrix.reshape(-1) for matrix in plan[2:5])
    pack = rows_weight_kernel if threads > 1 else rows_weight_kernel.serial
    pack(
        weight.reshape(-1), shape.out_channels, shape.in_channels, shape.kernel[1:], shape.stride[1], plan.phases,
        plan.members, plan.bounds, plan.terms, taps, combined,
    )  # fmt: skip
    down = -(-shape.output[1] // plan.rows)
    workers = min(threads, shape.batch * -(-down // plan.bands))
    frame_pitch = -(-plan.width // lanes) * lanes
    frame_rows = ((plan.bands - 1) * plan.rows + MOST_ROWS - 1) * shape.stride[1] + len(plan.phases)
    line_size = (-(-plan.bands * plan.width // lanes) + 1) // 2 * 2 * lanes + lanes
    lines = terms // shape.kernel[2] * shape.stride[2] * line_size
    run = rows_kernel if workers > 1 else rows_kernel.serial
    run(
        x.reshape(-1), combined, np.zeros(shape.out_channels, x.dtype) if bias is None else bias, relu, z.reshape(-1),
        shape.batch, shape.in_channels, shape.out_channels, shape.input[1:], shape.output[1:], shape.stride[1:],
        shape.padding[1:], plan.rows, plan.phases, reads, factors, plan.bounds, plan.members, plan.terms, plan.columns,
        plan.width, plan.bands,
        workspace("conv frames", (workers, (frame_rows + 1) * shape.stride[2] * frame_pitch), x.dtype),
        workspace("conv lines", (workers, lines + ACROSS * lanes), x.dtype),
        workspace("conv sums", (workers, len(plan.reads) * RESULTS * ACROSS * lanes), x.dtype),
    )  # fmt: skip
