"""Attention's Triton kernels, in the flash form: a program keeps one tile of rows, walks over the tiles of the other
side, and makes scores and weights where they are used.

All kernels take the same call: query [batch, heads, length, FEATURES], key and value [batch, heads / group, keys, ...]
and grad_output with strides of their own and neighbouring features, a mask with four strides (0 where it is
stretched), and output, log_sums and row_dots as contiguous [batch, heads, length, ...]. Features are read CHUNK at a
time; a program writes one CHUNK of its output's features, and the grid has one program for each of them.
"""

import triton
import triton.language as tl

_BOOL_MASK, _ADDED_MASK = tl.constexpr(1), tl.constexpr(2)


@triton.jit
def load_chunk(rows, inside, features, CHUNK: tl.constexpr):
    """The next CHUNK features of the rows that begin at the pointers `rows`; zero past the last of `features`."""
    feature = tl.arange(0, CHUNK)
    return tl.load(rows[:, None] + feature[None, :], mask=inside[:, None] & (feature[None, :] < features), other=0.0)


@triton.jit
def store_chunk(rows, inside, features, value, CHUNK: tl.constexpr):
    feature = tl.arange(0, CHUNK)
    place = rows[:, None] + feature[None, :]
    tl.store(place, value.to(rows.dtype.element_ty), mask=inside[:, None] & (feature[None, :] < features))


@triton.jit
def row_products(
    held, a, a_inside, b, b_inside,
    FEATURES: tl.constexpr, PRECISION: tl.constexpr, ACCUMULATOR: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """a b^T over all features. `held` is a's first chunk, which the caller keeps: all there is for most heads."""
    right = load_chunk(b, b_inside, FEATURES, CHUNK)
    total = tl.dot(held, tl.trans(right), input_precision=PRECISION, out_dtype=ACCUMULATOR)
    for start in range(CHUNK, FEATURES, CHUNK):
        left = load_chunk(a + start, a_inside, FEATURES - start, CHUNK)
        right = load_chunk(b + start, b_inside, FEATURES - start, CHUNK)
        total = tl.dot(left, tl.trans(right), total, input_precision=PRECISION, out_dtype=ACCUMULATOR)
    return total


@triton.jit
def masked_scores(
    products, scale, mask, row, column, length, keys, mask_row, mask_column, MASK: tl.constexpr, CAUSAL: tl.constexpr
):
    """scale products + mask, and -inf where row may not look at column; row and column stand along their own axes."""
    scores = products * tl.full((1, 1), scale, products.dtype)
    seen = (row < length) & (column < keys)
    if MASK > 0:
        value = tl.load(mask + row * mask_row + column * mask_column, mask=seen, other=0)
        if MASK == _BOOL_MASK:
            seen &= value != 0
        else:
            scores += value.to(scores.dtype)
    if CAUSAL:
        seen &= column <= row
    return tl.where(seen, scores, float("-inf"))


@triton.jit
def dropped_out(values, row, column, first_row, keys, dropout_p, factor, seed, DROPOUT: tl.constexpr):
    """values times the dropout's factors; `first_row` counts the rows of the heads before this one."""
    if DROPOUT:
        kept = tl.rand(seed, (first_row + row) * keys + column) >= dropout_p
        values = tl.where(kept, values * tl.full((1, 1), factor, values.dtype), 0.0)
    return values


@triton.jit(do_not_specialize=["seed"])
def attention_forward_kernel(
    query, key, value, mask, output, log_sums,
    heads, group, length, keys,
    query_batch, query_head, query_row, key_batch, key_head, key_row, value_batch, value_head, value_row,
    mask_batch, mask_head, mask_row, mask_column,
    scale: tl.float64, dropout_p, factor: tl.float64, seed: tl.int64,
    FEATURES: tl.constexpr, VALUE_FEATURES: tl.constexpr, MASK: tl.constexpr, CAUSAL: tl.constexpr,
    DROPOUT: tl.constexpr, PRECISION: tl.constexpr, ACCUMULATOR: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """output = dropout(softmax(scale query key^T + mask)) value, and the logarithm of each row's sum, inf for a row
    with no key to look at, so that the backward's e^(score - log sum) is 0 as well.

    A program has BLOCK_M query rows and walks over BLOCK_N keys at a time, with each row's largest score and sum so
    far; when a larger score comes, what was summed before shrinks to it.
    """
    tiles, chunks = tl.cdiv(length, BLOCK_M), tl.cdiv(VALUE_FEATURES, CHUNK) if VALUE_FEATURES > CHUNK else 1
    tile, rest = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    first, pair = (rest % chunks) * CHUNK, (rest // chunks).to(tl.int64)
    batch, head = pair // heads, pair % heads
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M).to(tl.int64)
    row_inside = row < length
    query_rows = query + batch * query_batch + head * query_head + row * query_row
    keys_of_head = key + batch * key_batch + (head // group) * key_head
    values_of_head = value + batch * value_batch + (head // group) * value_head + first
    if MASK > 0:
        mask += batch * mask_batch + head * mask_head
    held = load_chunk(query_rows, row_inside, FEATURES, CHUNK)

    largest = tl.full((BLOCK_M,), float("-inf"), ACCUMULATOR)
    sums = tl.zeros((BLOCK_M,), ACCUMULATOR)
    total = tl.zeros((BLOCK_M, CHUNK), ACCUMULATOR)
    stop = keys
    if CAUSAL:
        stop = tl.minimum(keys, (tile + 1) * BLOCK_M)
    for start in range(0, stop, BLOCK_N):
        column = start + tl.arange(0, BLOCK_N).to(tl.int64)
        column_inside = column < keys
        key_rows, value_rows = keys_of_head + column * key_row, values_of_head + column * value_row
        products = row_products(
            held, query_rows, row_inside, key_rows, column_inside, FEATURES, PRECISION, ACCUMULATOR, CHUNK
        )
        scores = masked_scores(
            products, scale, mask, row[:, None], column[None, :], length, keys, mask_row, mask_column, MASK, CAUSAL
        )
        now_largest = tl.maximum(largest, tl.max(scores, axis=1))
        # A row that has seen nothing yet would take -inf from -inf.
        peak = tl.where(now_largest == float("-inf"), 0.0, now_largest)
        weights = tl.exp(scores - peak[:, None])
        shrink = tl.exp(largest - peak)
        largest = now_largest
        sums = sums * shrink + tl.sum(weights, axis=1)
        weights = dropped_out(
            weights, row[:, None], column[None, :], pair * length, keys, dropout_p, factor, seed, DROPOUT
        )
        values = load_chunk(value_rows, column_inside, VALUE_FEATURES - first, CHUNK)
        total = total * shrink[:, None]
        total = tl.dot(weights.to(values.dtype), values, total, input_precision=PRECISION, out_dtype=ACCUMULATOR)
    nothing = sums == 0
    output_rows = output + (pair * length + row) * VALUE_FEATURES + first
    total = total / tl.where(nothing, 1.0, sums)[:, None]
    store_chunk(output_rows, row_inside, VALUE_FEATURES - first, total, CHUNK)
    log_sum = tl.where(nothing, float("inf"), largest + tl.log(tl.where(nothing, 1.0, sums)))
    if first == 0:
        tl.store(log_sums + pair * length + row, log_sum, mask=row_inside)


@triton.jit
def attention_row_dots_kernel(
    output, grad_output, row_dots,
    rows, heads, length, grad_batch, grad_head, grad_row,
    VALUE_FEATURES: tl.constexpr, ACCUMULATOR: tl.constexpr, BLOCK_M: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Each row's sum of output times grad_output: what the softmax's gradient takes from every weight's."""
    place = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = place < rows
    pair, row = place // length, place % length
    output_rows = output + place * VALUE_FEATURES
    grad_rows = grad_output + (pair // heads) * grad_batch + (pair % heads) * grad_head + row * grad_row
    total = tl.zeros((BLOCK_M, CHUNK), ACCUMULATOR)
    for start in range(0, VALUE_FEATURES, CHUNK):
        left = load_chunk(output_rows + start, inside, VALUE_FEATURES - start, CHUNK).to(ACCUMULATOR)
        right = load_chunk(grad_rows + start, inside, VALUE_FEATURES - start, CHUNK).to(ACCUMULATOR)
        total += left * right
    tl.store(row_dots + place, tl.sum(total, axis=1), mask=inside)


@triton.jit(do_not_specialize=["seed"])
def attention_grad_query_kernel(
    query, key, value, mask, grad_output, log_sums, row_dots, grad_query,
    heads, group, length, keys,
    query_batch, query_head, query_row, key_batch, key_head, key_row, value_batch, value_head, value_row,
    mask_batch, mask_head, mask_row, mask_column, grad_batch, grad_head, grad_row,
    scale: tl.float64, dropout_p, factor: tl.float64, seed: tl.int64,
    FEATURES: tl.constexpr, VALUE_FEATURES: tl.constexpr, MASK: tl.constexpr, CAUSAL: tl.constexpr,
    DROPOUT: tl.constexpr, PRECISION: tl.constexpr, ACCUMULATOR: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """grad_query = scale grad_scores key: a program has BLOCK_M query rows and walks over BLOCK_N keys at a time."""
    tiles, chunks = tl.cdiv(length, BLOCK_M), tl.cdiv(FEATURES, CHUNK)
    tile, rest = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    first, pair = (rest % chunks) * CHUNK, (rest // chunks).to(tl.int64)
    batch, head = pair // heads, pair % heads
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M).to(tl.int64)
    row_inside = row < length
    query_rows = query + batch * query_batch + head * query_head + row * query_row
    grad_rows = grad_output + batch * grad_batch + head * grad_head + row * grad_row
    keys_of_head = key + batch * key_batch + (head // group) * key_head
    values_of_head = value + batch * value_batch + (head // group) * value_head
    if MASK > 0:
        mask += batch * mask_batch + head * mask_head
    held = load_chunk(query_rows, row_inside, FEATURES, CHUNK)
    held_grad = load_chunk(grad_rows, row_inside, VALUE_FEATURES, CHUNK)
    log_sum = tl.load(log_sums + pair * length + row, mask=row_inside, other=float("inf"))
    row_dot = tl.load(row_dots + pair * length + row, mask=row_inside, other=0.0)

    total = tl.zeros((BLOCK_M, CHUNK), ACCUMULATOR)
    stop = keys
    if CAUSAL:
        stop = tl.minimum(keys, (tile + 1) * BLOCK_M)
    for start in range(0, stop, BLOCK_N):
        column = start + tl.arange(0, BLOCK_N).to(tl.int64)
        column_inside = column < keys
        key_rows, value_rows = keys_of_head + column * key_row, values_of_head + column * value_row
        products = row_products(
            held, query_rows, row_inside, key_rows, column_inside, FEATURES, PRECISION, ACCUMULATOR, CHUNK
        )
        scores = masked_scores(
            products, scale, mask, row[:, None], column[None, :], length, keys, mask_row, mask_column, MASK, CAUSAL
        )
        grad_weights = row_products(
            held_grad, grad_rows, row_inside, value_rows, column_inside, VALUE_FEATURES, PRECISION, ACCUMULATOR, CHUNK
        )
        grad_weights = dropped_out(
            grad_weights, row[:, None], column[None, :], pair * length, keys, dropout_p, factor, seed, DROPOUT
        )
        grad_scores = tl.exp(scores - log_sum[:, None]) * (grad_weights - row_dot[:, None])
        right = load_chunk(key_rows + first, column_inside, FEATURES - first, CHUNK)
        total = tl.dot(grad_scores.to(right.dtype), right, total, input_precision=PRECISION, out_dtype=ACCUMULATOR)
    total *= tl.full((1, 1), scale, ACCUMULATOR)
    store_chunk(grad_query + (pair * length + row) * FEATURES + first, row_inside, FEATURES - first, total, CHUNK)


@triton.jit(do_not_specialize=["seed"])
def attention_grad_key_value_kernel(
    query, key, value, mask, grad_output, log_sums, row_dots, grad_key, grad_value,
    heads, group, length, keys,
    query_batch, query_head, query_row, key_batch, key_head, key_row, value_batch, value_head, value_row,
    mask_batch, mask_head, mask_row, mask_column, grad_batch, grad_head, grad_row,
    scale: tl.float64, dropout_p, factor: tl.float64, seed: tl.int64,
    FEATURES: tl.constexpr, VALUE_FEATURES: tl.constexpr, MASK: tl.constexpr, CAUSAL: tl.constexpr,
    DROPOUT: tl.constexpr, PRECISION: tl.constexpr, ACCUMULATOR: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """grad_key = scale grad_scores^T query and grad_value = weights^T grad_output; either may be None.

    A program has BLOCK_N keys and walks over BLOCK_M rows at a time of each query head that shares them. Its tiles are
    [keys, rows], so that they meet query and grad_output as they are.
    """
    tiles = tl.cdiv(keys, BLOCK_N)
    tile, rest = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    first, key_pair = (rest % CHUNKS) * CHUNK, (rest // CHUNKS).to(tl.int64)
    key_heads = heads // group
    batch, key_head_index = key_pair // key_heads, key_pair % key_heads
    column = tile * BLOCK_N + tl.arange(0, BLOCK_N).to(tl.int64)
    column_inside = column < keys
    key_rows = key + batch * key_batch + key_head_index * key_head + column * key_row
    value_rows = value + batch * value_batch + key_head_index * value_head + column * value_row
    held = load_chunk(key_rows, column_inside, FEATURES, CHUNK)
    held_value = load_chunk(value_rows, column_inside, VALUE_FEATURES, CHUNK)

    total_key = tl.zeros((BLOCK_N, CHUNK), ACCUMULATOR)
    total_value = tl.zeros((BLOCK_N, CHUNK), ACCUMULATOR)
    begin = 0
    if CAUSAL:
        begin = (tile * BLOCK_N) // BLOCK_M * BLOCK_M
    for head in range(key_head_index * group, (key_head_index + 1) * group):
        pair = batch * heads + head
        mask_of_head = mask
        if MASK > 0:
            mask_of_head = mask + batch * mask_batch + head * mask_head
        for start in range(begin, length, BLOCK_M):
            row = start + tl.arange(0, BLOCK_M).to(tl.int64)
            row_inside = row < length
            query_rows = query + batch * query_batch + head * query_head + row * query_row
            grad_rows = grad_output + batch * grad_batch + head * grad_head + row * grad_row
            log_sum = tl.load(log_sums + pair * length + row, mask=row_inside, other=float("inf"))
            products = row_products(
                held, key_rows, column_inside, query_rows, row_inside, FEATURES, PRECISION, ACCUMULATOR, CHUNK
            )
            scores = masked_scores(
                products, scale, mask_of_head, row[None, :], column[:, None], length, keys, mask_row, mask_column,
                MASK, CAUSAL,
            )  # fmt: skip
            weights = tl.exp(scores - log_sum[None, :])
            if grad_value is not None:
                dropped = dropped_out(
                    weights, row[None, :], column[:, None], pair * length, keys, dropout_p, factor, seed, DROPOUT
                )
                right = load_chunk(grad_rows + first, row_inside, VALUE_FEATURES - first, CHUNK)
                total_value = tl.dot(
                    dropped.to(right.dtype), right, total_value, input_precision=PRECISION, out_dtype=ACCUMULATOR
                )
            if grad_key is not None:
                grad_weights = row_products(
                    held_value, value_rows, column_inside, grad_rows, row_inside, VALUE_FEATURES, PRECISION,
                    ACCUMULATOR, CHUNK,
                )  # fmt: skip
                grad_weights = dropped_out(
                    grad_weights, row[None, :], column[:, None], pair * length, keys, dropout_p, factor, seed, DROPOUT
                )
                row_dot = tl.load(row_dots + pair * length + row, mask=row_inside, other=0.0)
                grad_scores = weights * (grad_weights - row_dot[None, :])
                right = load_chunk(query_rows + first, row_inside, FEATURES - first, CHUNK)
                total_key = tl.dot(
                    grad_scores.to(right.dtype), right, total_key, input_precision=PRECISION, out_dtype=ACCUMULATOR
                )
    if grad_key is not None:
        total_key *= tl.full((1, 1), scale, ACCUMULATOR)
        grad_key_rows = grad_key + (key_pair * keys + column) * FEATURES + first
        store_chunk(grad_key_rows, column_inside, FEATURES - first, total_key, CHUNK)
    if grad_value is not None:
        grad_value_rows = grad_value + (key_pair * keys + column) * VALUE_FEATURES + first
        store_chunk(grad_value_rows, column_inside, VALUE_FEATURES - first, total_value, CHUNK)


@triton.jit(do_not_specialize=["seed"])
def attention_grad_mask_kernel(
    query, key, value, mask, grad_output, log_sums, row_dots, partial,
    heads, group, length, keys,
    query_batch, query_head, query_row, key_batch, key_head, key_row, value_batch, value_head, value_row,
    mask_batch, mask_head, mask_row, mask_column, grad_batch, grad_head, grad_row,
    mask_heads, mask_rows, mask_columns, mask_size, row_tiles, column_tiles,
    batches_walked, heads_walked, rows_walked, columns_walked, steps, steps_a_split,
    scale: tl.float64, dropout_p, factor: tl.float64, seed: tl.int64,
    FEATURES: tl.constexpr, VALUE_FEATURES: tl.constexpr, MASK: tl.constexpr, CAUSAL: tl.constexpr,
    DROPOUT: tl.constexpr, PRECISION: tl.constexpr, ACCUMULATOR: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CHUNK: tl.constexpr,
    ROWS_STRETCHED: tl.constexpr, COLUMNS_STRETCHED: tl.constexpr,
):  # fmt: skip
    """partial [splits, mask_size] = grad_scores summed over the axes along which the mask was stretched.

    A program has one tile of one of the mask's matrices; it walks over a split's share of the batches, heads, row
    tiles and column tiles that took it, the columns' fastest, and adds their gradients tile on tile. Only at the end
    does it sum within the tile, along an axis that was stretched.
    """
    program = tl.program_id(0)
    column_tile, program = program % column_tiles, program // column_tiles
    row_tile, program = program % row_tiles, program // row_tiles
    matrices = mask_size // tl.maximum(mask_rows * mask_columns, 1)
    matrix, split = program % matrices, program // matrices
    begin = split * steps_a_split
    total = tl.zeros((BLOCK_M, BLOCK_N), ACCUMULATOR)
    for step in range(begin, tl.minimum(begin + steps_a_split, steps)):
        column = ((column_tile + step % columns_walked) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
        rest = step // columns_walked
        row = ((row_tile + rest % rows_walked) * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
        rest = rest // rows_walked
        head = (matrix % mask_heads + rest % heads_walked).to(tl.int64)
        batch = (matrix // mask_heads + rest // heads_walked).to(tl.int64)
        row_inside, column_inside = row < length, column < keys
        pair = batch * heads + head
        query_rows = query + batch * query_batch + head * query_head + row * query_row
        grad_rows = grad_output + batch * grad_batch + head * grad_head + row * grad_row
        key_rows = key + batch * key_batch + (head // group) * key_head + column * key_row
        value_rows = value + batch * value_batch + (head // group) * value_head + column * value_row
        products = row_products(
            load_chunk(query_rows, row_inside, FEATURES, CHUNK), query_rows, row_inside, key_rows, column_inside,
            FEATURES, PRECISION, ACCUMULATOR, CHUNK,
        )  # fmt: skip
        scores = masked_scores(
            products, scale, mask + batch * mask_batch + head * mask_head, row[:, None], column[None, :], length, keys,
            mask_row, mask_column, MASK, CAUSAL,
        )  # fmt: skip
        grad_weights = row_products(
            load_chunk(grad_rows, row_inside, VALUE_FEATURES, CHUNK), grad_rows, row_inside, value_rows, column_inside,
            VALUE_FEATURES, PRECISION, ACCUMULATOR, CHUNK,
        )  # fmt: skip
        grad_weights = dropped_out(
            grad_weights, row[:, None], column[None, :], pair * length, keys, dropout_p, factor, seed, DROPOUT
        )
        log_sum = tl.load(log_sums + pair * length + row, mask=row_inside, other=float("inf"))
        row_dot = tl.load(row_dots + pair * length + row, mask=row_inside, other=0.0)
        total += tl.exp(scores - log_sum[:, None]) * (grad_weights - row_dot[:, None])
    target_row = (row_tile * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    target_column = (column_tile * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    if ROWS_STRETCHED:
        total = tl.sum(total, axis=0, keep_dims=True)
        target_row = tl.zeros((1,), tl.int64)
    if COLUMNS_STRETCHED:
        total = tl.sum(total, axis=1, keep_dims=True)
        target_column = tl.zeros((1,), tl.int64)
    place = (matrix.to(tl.int64) * mask_rows + target_row[:, None]) * mask_columns + target_column[None, :]
    place += split.to(tl.int64) * mask_size
    inside = (target_row[:, None] < mask_rows) & (target_column[None, :] < mask_columns)
    tl.store(partial + place, total.to(partial.dtype.element_ty), mask=inside)
