"""How a batch of sequences is walked through, and what layers and cells have in common around that."""

from typing import NamedTuple

import numpy as np
from numba import get_num_threads, prange

from ..accumulate import add_into, copy_into, fill
from ..cpu_jit import kernel
from ..cpu_matmul import matmul
from ..destinations import gradient
from ..memory import empty, zeros
from .cpu_product import product_scratch

_ROWS_PER_BLOCK = 64  # states and sums of so many sequences fit into the second-level cache
_ROWS_OF_INPUTS = 128  # multiplied at a time, so that their weight comes from memory once for several steps
_WORTH_THREADS = 1 << 16  # elements; fewer are added before another thread has woken up


class Walk(NamedTuple):
    """How the kernels walk through a batch of sequences; cpu_time.py says what the four tables mean."""

    order: np.ndarray
    lengths: np.ndarray
    rows: np.ndarray
    places: np.ndarray
    valid: np.ndarray | None  # [T * N], which places exist; None if all do
    backwards: bool  # whether all sequences are read from the last place of T * N to the first
    blocks: int
    block_rows: int

    @property
    def tables(self):
        return self.order, self.lengths, self.rows, self.places

    def scratch(self, size, dtype, *leading):
        return empty((*leading, self.blocks, self.block_rows, size), dtype)

    def gather(self, x):
        """[T, N, size] -> the rows that exist, [S, size]."""
        x = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
        return x if self.valid is None else x[self.valid]

    def at_places(self, size, dtype):
        """Room for [T * N, size] of which only what exists is written: zero elsewhere."""
        return (empty if self.valid is None else zeros)((self.places.size, size), dtype)

    def states(self, size, dtype, h0):
        """Room for the output and, on the side that is read first, the initial states: [T * N + N, size]."""
        states = (empty if self.valid is None else zeros)((self.places.size + len(self.order), size), dtype)
        batch = len(self.order)
        initial = states[len(states) - batch :] if self.backwards else states[:batch]
        if h0 is None:
            fill(initial, 0)
        else:
            copy_into(initial, h0)
        return states

    def output(self, states):
        """The output [T * N, size] in states."""
        batch = len(self.order)
        return states[: len(states) - batch] if self.backwards else states[batch:]

    def before(self, states):
        """The state that each step started from, [S, size]: where all steps exist, states moved by one."""
        batch = len(self.order)
        if self.valid is None:
            return states[batch:] if self.backwards else states[: len(states) - batch]
        exists = np.arange(len(self.rows))[:, None] < self.lengths
        previous = np.concatenate([np.arange(batch)[None], batch + self.places[:-1]])
        index = np.empty(np.count_nonzero(exists), np.intp)
        index[self.rows[exists]] = previous[exists]
        return states[index]

    def by_time(self, x):
        """[T * N, size] as [T, N, size]."""
        return x.reshape(*self.places.shape, x.shape[1])

    def sums(self, packed):
        """Room for the products of a packed weight with the inputs of a step or more."""
        return product_scratch(self.blocks, max(self.block_rows, _ROWS_OF_INPUTS), packed)

    def products(self, packed):
        """Room for the products of a packed weight with the states of one step."""
        return product_scratch(self.blocks, self.block_rows, packed)


def plan(steps, batch, lengths, reverse):
    whole = lengths is None or (lengths == steps).all()
    if whole:
        lengths, order, valid = np.full(batch, steps), np.arange(batch), None
        rows = np.arange(steps * batch).reshape(steps, batch)
        places = rows = np.ascontiguousarray(rows[::-1]) if reverse else rows
    else:
        lengths = np.ascontiguousarray(lengths)
        order = np.argsort(-lengths, kind="stable")
        times = np.arange(steps)[:, None]
        valid = (times < lengths).ravel()
        if reverse:
            times = np.maximum(lengths - 1 - times, 0)
        places = times * batch + np.arange(batch)
        rows = (np.cumsum(valid) - 1)[places]
    # A multiple of the number of threads, so that none has one block more than the others.
    threads = get_num_threads()
    blocks = min(batch, threads * -(-batch // (threads * _ROWS_PER_BLOCK)))
    block_rows = -(-batch // blocks) if blocks else 0
    return Walk(order, lengths, rows, places, valid, bool(whole and reverse), blocks, block_rows)


def bias_sum(size, dtype, *biases):
    total = zeros(size, dtype)
    for bias in biases:
        if bias is not None:
            add_into(total, bias)
    return total


def gru_bias_sums(size, dtype, bias_ih, bias_hh):
    """The bias beside W_ih x, and that of n beside W_n h, which is reset together with it: the rest adds to b_ih."""
    bias, bias_new = bias_sum(3 * size, dtype, bias_ih), zeros(size, dtype)
    if bias_hh is not None:
        add_into(bias[: 2 * size], bias_hh[: 2 * size])
        copy_into(bias_new, bias_hh[2 * size :])
    return bias, bias_new


def initial_state(given, batch, size, dtype):
    """A copy of the initial state, or of a final state's gradient, for a kernel to write on."""
    state = zeros((batch, size), dtype)
    if given is not None:
        copy_into(state, given)
    return state


@kernel
def recurrent_grad_bias_kernel(rows, total, parts):
    """total = the sum of the rows [S, at least len(total)], one after another. A task is a part of the columns, of
    which it walks down the rows."""
    for part in prange(parts):
        low, high = len(total) * part // parts, len(total) * (part + 1) // parts
        sums = total[low:high]
        sums[:] = 0
        for r in range(rows.shape[0]):
            row = rows[r, low:high]
            for c in range(len(sums)):
                sums[c] += row[c]


def bias_gradient(rows, columns):
    """The sum of the rows [S, at least `columns`]: [columns]."""
    total = empty(columns, rows.dtype)
    threads = get_num_threads() if rows.size > _WORTH_THREADS else 1
    (recurrent_grad_bias_kernel if threads > 1 else recurrent_grad_bias_kernel.serial)(rows, total, threads)
    return total


def weight_gradient(index, left, right):
    """left^T right: the gradient of the weight that is the layer's input of that index, from all its rows."""
    return matmul(left.T, right, gradient(index, (left.shape[1], right.shape[1]), left.dtype))


def weight_gradients(needs, grad_sums, columns, x_rows, before):
    """Gradients of weight_ih, weight_hh, bias_ih and bias_hh where the gates add what both weights make.

    Args:
        grad_sums: [S, at least `columns`], the gradient of what the gates add.
    """
    grad_bias = bias_gradient(grad_sums, columns) if needs[3] or needs[4] else None
    grad_sums, grad_bias_hh = grad_sums[:, :columns], grad_bias
    if needs[3] and needs[4]:  # each has memory of its own, which what comes after may write on
        grad_bias_hh = empty(columns, grad_bias.dtype)
        copy_into(grad_bias_hh, grad_bias)
    return (
        weight_gradient(1, grad_sums, x_rows) if needs[1] else None,
        weight_gradient(2, grad_sums, before) if needs[2] else None,
        grad_bias,
        grad_bias_hh,
    )
