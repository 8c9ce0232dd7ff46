"""Attention's kernels for NumPy arrays: blocks of query rows against all keys, products and softmax in one cache.

A task is a key head, or a share of the query rows that look at it. Its keys and values are packed once into panels of
`cpu_product`; then, block by block of query rows, the register-tiled product makes scores, which a row at a time become
weights, which the product joins with the values. The backward pass makes the weights again from each row's log-sum
(T. Dao et al., "FlashAttention", 2022) and keeps the sums of grad_key and grad_value, transposed, beside the panels: so
every product reads what it needs from left to right, and nothing larger than a block is ever transposed.

Panels that a causal mask hides from all rows of a block are left out, as are, in a panel, the rows above the first
that sees it. Arrays are flat; row i of head h stands at starts[h] + i * pitch. Query head h * groups + g looks at key
head h.
"""

import numpy as np
from numba import prange

from ..cpu_jit import kernel, serial_kernel
from ..cpu_lines import largest_of_line, memory, sum_of_few_lines
from ..cpu_math import log
from ..cpu_philox import fill_uniform
from ..cpu_product import PANEL_BYTES, TALL, multiply_narrow, multiply_panels, pack_columns, pack_rows, transpose
from ..cpu_sums import line_product
from .cpu_lines import LINE_STEP, differentiate, exponentiate

_TERMS = 256  # keys that a product sums at a time: their panel of values stays in the first-level cache
_STEP = 48  # rows of a causal block that are taken together, up to the last key that any of them sees
BACKWARD_CHUNK = (
    256  # keys that the backward pass works on at a time: weights and their gradients stay in the second-level cache
)


@serial_kernel
def round_up(count, step):
    """The multiple of step from count on."""
    return (count + step - 1) // step * step


@serial_kernel
def _copy_scaled(source, start, pitch, rows, features, scale, target, target_start, target_pitch):
    """target rows = scale times source rows."""
    for r in range(rows):
        to = target_start + r * target_pitch
        sum_of_few_lines(memory(source), (start + r * pitch,), (scale,), memory(target), to, features)


@serial_kernel
def _multiply_seen(left, left_rows, rows, panels, panels_start, inner, first_key, keys, position, is_causal, to, pitch):
    """to [rows, keys] = left times the panels of the keys from first_key on. position: the first row's, which sees as
    many keys and one; where causal, what no row sees is left as it is."""
    width = PANEL_BYTES // to.itemsize
    count = (keys + width - 1) // width
    if not is_causal:
        multiply_panels(
            left, 0, left_rows, 0, rows, panels, panels_start, width * inner, width, inner, count, to, 0, pitch, False
        )
        return
    for panel in range(count):
        first_row = max(0, first_key + panel * width - position)
        multiply_panels(
            left, 0, left_rows, first_row, rows, panels, panels_start + panel * width * inner, 0, width, inner, 1,
            to, panel * width, pitch, False,
        )  # fmt: skip


@serial_kernel
def _weigh(weights, pitch, rows, panels, inner_keys, keys, columns, position, is_causal, to, to_pitch, first_key, adds):
    """to [rows, columns] (+)= weights [rows, keys] times panels of [inner_keys, columns], from key first_key on.
    position: the first row's; where causal, rows are taken a few at a time, up to the last key that they see."""
    width = PANEL_BYTES // to.itemsize
    count = (columns + width - 1) // width
    places = np.arange(rows) * pitch
    step = _STEP if is_causal else rows
    for low in range(0, rows, step):
        high = min(low + step, rows)
        seen = min(keys, position + high - first_key) if is_causal else keys
        for k in range(0, seen, _TERMS):
            terms, start, more = min(_TERMS, seen - k), (first_key + k) * width, adds or k > 0
            if columns <= width // 2:  # the other half of the panels would be multiplied in vain
                for row in range(low, high, TALL):
                    multiply_narrow(
                        weights, k, places, row, min(TALL, high - row), panels, start, width, terms, to, 0, to_pitch,
                        more, 1,
                    )  # fmt: skip
            else:
                multiply_panels(
                    weights, k, places, low, high, panels, start, inner_keys * width, width, terms, count, to, 0,
                    to_pitch, more,
                )  # fmt: skip


@serial_kernel
def _add_transposed(
    left, left_pitch, features, weights, pitch, rows, first_key, keys, position, is_causal, to, to_pitch
):
    """to [features, from first_key on] += left [features, rows] times weights [rows, keys], whose columns are panels as
    they lie; where causal, rows above the first that sees a panel are left out."""
    width = PANEL_BYTES // to.itemsize
    places = np.arange(features) * left_pitch
    for panel in range((keys + width - 1) // width):
        first_row = max(0, first_key + panel * width - position) if is_causal else 0
        multiply_panels(
            left, first_row, places, 0, features, weights, first_row * pitch + panel * width, 0, pitch,
            rows - first_row, 1, to, first_key + panel * width, to_pitch, True,
        )  # fmt: skip


@serial_kernel
def _drop(line, draws, dropout_p, factor):
    """line times the dropout's factors: 0 where its draw is below dropout_p."""
    for i in range(line.size):
        line[i] = line[i] * factor if draws[i] >= np.float32(dropout_p) else line.dtype.type(0)


@serial_kernel
def _add_line(line, to):
    """to += line, as far as it goes."""
    for i in range(len(to)):
        to[i] += line[i]


@serial_kernel
def _finish_sums(peaks, totals, factor, log_sums):
    """The log-sums of rows, and in place of their totals what their sums of values are to be multiplied with. A row
    that sees nothing gets 0, and inf, so that the backward's e^(score - log_sum) is 0 as well."""
    zero, infinity = totals.dtype.type(0), totals.dtype.type(np.inf)
    for r in range(totals.size):
        log_sums[r] = infinity if totals[r] == zero else peaks[r] + log(totals[r])
        totals[r] = zero if totals[r] == zero else factor / totals[r]


@serial_kernel
def _attend(worker, workers, query, key, value, mask, mask_index, output, log_sums, sizes, numbers, scratch):
    """A worker's tasks of the forward pass."""
    length, keys, features, value_features, groups, block_rows, parts = sizes
    scale, is_causal, dropout_p, seed = numbers
    flat, starts, row_pitch = query
    flat_keys, key_starts, key_pitch = key
    flat_values, value_starts, value_pitch = value
    flat_output, output_starts, output_pitch = output
    kind = flat_output.dtype.type
    width = PANEL_BYTES // flat_output.itemsize
    padded, columns = round_up(keys, width), round_up(value_features, width)
    pitch = padded + LINE_STEP
    blocks = (length + block_rows - 1) // block_rows
    factor = kind(0) if dropout_p == 1 else kind(1 / (1 - dropout_p))
    scores, rest = scratch[: block_rows * pitch], scratch[block_rows * pitch :]
    key_panels, rest = rest[: features * padded], rest[features * padded :]
    value_panels, rest = rest[: keys * columns], rest[keys * columns :]
    scaled, sums = rest[: block_rows * features], rest[block_rows * features :]
    peaks, totals = np.empty(block_rows, flat_output.dtype), np.empty(block_rows, flat_output.dtype)
    draws = np.empty(keys, np.float32)
    places = np.arange(block_rows) * features
    for task in range(worker, len(key_starts) * parts, workers):
        head = task // parts
        pack_columns(flat_keys, key_starts[head], key_pitch, features, keys, key_panels, 0)
        pack_rows(flat_values, value_starts[head], value_pitch, keys, value_features, value_panels, 0)
        for block in range(task % parts, groups * blocks, parts):
            query_head, first = head * groups + block // blocks, block % blocks * block_rows
            rows = min(block_rows, length - first)
            seen_keys = min(keys, first + rows) if is_causal else keys
            start = starts[query_head] + first * row_pitch
            _copy_scaled(flat, start, row_pitch, rows, features, kind(scale), scaled, 0, features)
            _multiply_seen(scaled, places, rows, key_panels, 0, features, 0, seen_keys, first, is_causal, scores, pitch)
            for r in range(rows):
                seen = min(keys, first + r + 1) if is_causal else keys
                whole = round_up(seen, LINE_STEP)
                line = r * pitch
                if mask.size:
                    _add_line(mask[mask_index[query_head], (first + r) % mask.shape[1]], scores[line : line + seen])
                if seen < whole:
                    scores[line + seen : line + whole] = -np.inf
                peak = largest_of_line(memory(scores), line, whole)
                peaks[r] = kind(0) if peak == -np.inf else peak
                totals[r] = exponentiate(memory(scores), line, whole, peaks[r])
                if whole < seen_keys:
                    scores[line + whole : line + seen_keys] = kind(0)
                if dropout_p > 0:
                    fill_uniform(seed, (query_head * length + first + r) * keys, draws[:seen])
                    _drop(scores[line : line + seen], draws, dropout_p, kind(1))
            _finish_sums(peaks[:rows], totals[:rows], factor, log_sums[query_head, first : first + rows])
            _weigh(
                scores, pitch, rows, value_panels, keys, seen_keys, value_features, first, is_causal, sums, columns, 0,
                False,
            )  # fmt: skip
            for r in range(rows):
                to = output_starts[query_head] + (first + r) * output_pitch
                _copy_scaled(sums, r * columns, 0, 1, value_features, totals[r], flat_output, to, 0)


@kernel
def attention_forward_kernel(query, key, value, mask, mask_index, output, log_sums, sizes, numbers, scratch):
    """output, and log_sums [query heads, length] of each row's scores.

    Args:
        query, key, value, output: (flat array, starts, pitch).
        mask: [masks, 1 or length, keys], added to the scores of the heads that mask_index [query heads] names; without
            keys, none.
        sizes: length, keys, features, value_features, groups (query heads a key head), block_rows, parts (tasks that
            share a key head's blocks of rows).
        numbers: scale, is_causal, dropout_p, seed.
        scratch: [workers, `forward_scratch_size`].
    """
    workers = len(scratch)
    for worker in prange(workers):
        _attend(worker, workers, query, key, value, mask, mask_index, output, log_sums, sizes, numbers, scratch[worker])


@serial_kernel
def _row_dots(left, start, pitch, right, rows, features, dots):
    """dots[r] = left row r times right row r, right [rows, features] contiguous."""
    for r in range(rows):
        line, other = left[start + r * pitch : start + r * pitch + features], right[r * features : (r + 1) * features]
        dots[r] = line_product(line, other)


@serial_kernel
def _differentiate_tasks(
    worker, workers, query, key, value, mask, mask_index, output, log_sums, grad_output, grad_query, grad_key,
    grad_value, grad_mask, sizes, numbers, scratch,
):  # fmt: skip
    """A worker's tasks of the backward pass."""
    length, keys, features, value_features, groups, block_rows, parts = sizes
    scale, is_causal, dropout_p, seed = numbers
    flat, starts, row_pitch = query
    flat_keys, key_starts, key_pitch = key
    flat_values, value_starts, value_pitch = value
    flat_output, output_starts, output_pitch = output
    flat_above, above_starts, above_pitch = grad_output
    flat_grad, grad_starts, grad_pitch = grad_query
    flat_grad_keys, grad_key_starts, grad_key_pitch = grad_key
    flat_grad_values, grad_value_starts, grad_value_pitch = grad_value
    kind = flat_output.dtype.type
    width = PANEL_BYTES // flat_output.itemsize
    padded, columns = round_up(keys, width), round_up(features, width)
    pitch = min(padded, BACKWARD_CHUNK) + LINE_STEP
    blocks = (length + block_rows - 1) // block_rows
    factor = kind(0) if dropout_p == 1 else kind(1 / (1 - dropout_p))
    weights, rest = scratch[: block_rows * pitch], scratch[block_rows * pitch :]
    grads, rest = rest[: block_rows * pitch], rest[block_rows * pitch :]
    key_columns, rest = rest[: features * padded], rest[features * padded :]
    value_columns, rest = rest[: value_features * padded], rest[value_features * padded :]
    key_rows, rest = rest[: keys * columns], rest[keys * columns :]
    key_sums, rest = rest[: features * padded], rest[features * padded :]
    value_sums, rest = rest[: value_features * padded], rest[value_features * padded :]
    scaled, rest = rest[: block_rows * features], rest[block_rows * features :]
    scaled_columns, rest = rest[: block_rows * features], rest[block_rows * features :]
    above, rest = rest[: block_rows * value_features], rest[block_rows * value_features :]
    above_columns, sums = rest[: block_rows * value_features], rest[block_rows * value_features :]
    dots, draws = np.empty(block_rows, flat_output.dtype), np.empty(min(keys, BACKWARD_CHUNK), np.float32)
    places, above_places = np.arange(block_rows) * features, np.arange(block_rows) * value_features
    for task in range(worker, len(key_starts) * parts, workers):
        head = task // parts
        pack_columns(flat_keys, key_starts[head], key_pitch, features, keys, key_columns, 0)
        pack_columns(flat_values, value_starts[head], value_pitch, value_features, keys, value_columns, 0)
        if len(flat_grad):
            pack_rows(flat_keys, key_starts[head], key_pitch, keys, features, key_rows, 0)
        key_sums[:] = kind(0)
        value_sums[:] = kind(0)
        for block in range(task % parts, groups * blocks, parts):
            query_head, first = head * groups + block // blocks, block % blocks * block_rows
            rows = min(block_rows, length - first)
            seen_keys = min(keys, first + rows) if is_causal else keys
            start = starts[query_head] + first * row_pitch
            _copy_scaled(flat, start, row_pitch, rows, features, kind(scale), scaled, 0, features)
            transpose(scaled, 0, features, rows, features, scaled_columns, 0, block_rows)
            start = above_starts[query_head] + first * above_pitch
            _copy_scaled(flat_above, start, above_pitch, rows, value_features, kind(1), above, 0, value_features)
            transpose(above, 0, value_features, rows, value_features, above_columns, 0, block_rows)
            start = output_starts[query_head] + first * output_pitch
            _row_dots(flat_output, start, output_pitch, above, rows, value_features, dots)
            for low in range(0, seen_keys, BACKWARD_CHUNK):
                count = min(BACKWARD_CHUNK, seen_keys - low)
                _multiply_seen(
                    scaled, places, rows, key_columns, low * features, features, low, count, first, is_causal, weights,
                    pitch,
                )  # fmt: skip
                _multiply_seen(
                    above, above_places, rows, value_columns, low * value_features, value_features, low, count, first,
                    is_causal, grads, pitch,
                )  # fmt: skip
                for r in range(rows):
                    seen = max(0, min(count, first + r + 1 - low)) if is_causal else count
                    line, whole, end = r * pitch, round_up(seen, LINE_STEP), r * pitch + round_up(count, width)
                    index, mask_row = mask_index[query_head], (first + r) % mask.shape[1]
                    if mask.size:
                        _add_line(mask[index, mask_row][low : low + seen], weights[line : line + seen])
                    if line + seen < end:
                        weights[line + seen : line + whole] = -np.inf
                        weights[line + whole : end] = kind(0)
                        grads[line + seen : end] = kind(0)
                    if dropout_p > 0:
                        fill_uniform(seed, (query_head * length + first + r) * keys + low, draws[:seen])
                        _drop(grads[line : line + seen], draws, dropout_p, factor)
                    log_sum = log_sums[query_head, first + r]
                    differentiate(memory(weights), memory(grads), line, whole, log_sum, dots[r])
                    if dropout_p > 0:
                        _drop(weights[line : line + seen], draws, dropout_p, factor)
                    if grad_mask.size:
                        _add_line(grads[line : line + seen], grad_mask[worker, index, mask_row][low : low + seen])
                if len(flat_grad_values):
                    _add_transposed(
                        above_columns, block_rows, value_features, weights, pitch, rows, low, count, first, is_causal,
                        value_sums, padded,
                    )  # fmt: skip
                if len(flat_grad_keys):
                    _add_transposed(
                        scaled_columns, block_rows, features, grads, pitch, rows, low, count, first, is_causal,
                        key_sums, padded,
                    )  # fmt: skip
                if len(flat_grad):
                    _weigh(
                        grads, pitch, rows, key_rows, keys, count, features, first, is_causal, sums, columns, low,
                        low > 0,
                    )  # fmt: skip
            if len(flat_grad):
                start = grad_starts[query_head] + first * grad_pitch
                _copy_scaled(sums, 0, columns, rows, features, kind(scale), flat_grad, start, grad_pitch)
        if len(flat_grad_keys):
            transpose(key_sums, 0, padded, features, keys, flat_grad_keys, grad_key_starts[task], grad_key_pitch)
        if len(flat_grad_values):
            start = grad_value_starts[task]
            transpose(value_sums, 0, padded, value_features, keys, flat_grad_values, start, grad_value_pitch)


@kernel
def attention_backward_kernel(
    query, key, value, mask, mask_index, output, log_sums, grad_output, grad_query, grad_key, grad_value, grad_mask,
    sizes, numbers, scratch,
):  # fmt: skip
    """grad_query; of each task, as if it were a head, its part of grad_key and grad_value; and of each worker its part
    of grad_mask [workers, masks, 1 or length, keys], to which it adds. Where an array is empty, it is not computed.

    Args:
        grad_output, grad_query, grad_key, grad_value: (flat array, starts, pitch).
        scratch: [workers, `backward_scratch_size`].
        the others: as for the forward pass.
    """
    workers = len(scratch)
    for worker in prange(workers):
        _differentiate_tasks(
            worker, workers, query, key, value, mask, mask_index, output, log_sums, grad_output, grad_query, grad_key,
            grad_value, grad_mask, sizes, numbers, scratch[worker],
        )  # fmt: skip


def forward_scratch_size(itemsize, keys, features, value_features, block_rows):
    """Elements of a worker's scratch."""
    width = PANEL_BYTES // itemsize
    padded, columns = (-(-n // width) * width for n in (keys, value_features))
    size = block_rows * (padded + LINE_STEP + features + columns) + features * padded + keys * columns
    return -(-size // width) * width  # so that each worker's scratch begins at a cache line


def backward_scratch_size(itemsize, keys, features, value_features, block_rows):
    """Elements of a worker's scratch."""
    width = PANEL_BYTES // itemsize
    padded, columns = (-(-n // width) * width for n in (keys, features))
    rows = block_rows * (2 * (min(padded, BACKWARD_CHUNK) + LINE_STEP + features + value_features) + columns)
    size = rows + 2 * padded * (features + value_features) + keys * columns
    return -(-size // width) * width
