"""Kernels of the normalisations: moments of lines, lines normalised, and the sums and gradients of their backward.

A line is a run of elements as in `gpu_lines`; `statistic` numbers the mean and variance that it belongs to, `channel`
the weight and bias of an element:

                                  lines [lines, n]        statistic of a line     channel
    layer_norm, rms_norm          rows                    the line                the item
    instance_norm                 planes                  the line                line % C
    group_norm                    groups                  the line                line % G * C / G + item // S
    batch_norm                    planes, or columns      line % C                line % C
"""

import triton
import triton.language as tl

from ..gpu_lines import line_tile


@triton.jit
def _channel(line, item, groups, members, spatial, BY_LINE: tl.constexpr, INDEX: tl.constexpr):
    """The number of an element's weight and bias; INDEX is int32 where a line's items fit it: it divides faster."""
    channel = line % groups
    if not BY_LINE:
        channel = channel * members + item.to(INDEX) // spatial
    return channel


@triton.jit
def _rectified(gradient, normalized, weight, bias, channel, known, ACCUMULATOR: tl.constexpr):
    """The gradient where weight x^ + bias is above 0, else 0; `known` says which channels there are."""
    if weight is not None:
        normalized *= tl.load(weight + channel, mask=known, other=0.0).to(ACCUMULATOR)
    if bias is not None:
        normalized += tl.load(bias + channel, mask=known, other=0.0).to(ACCUMULATOR)
    return tl.where(normalized > 0, gradient, 0.0)


@triton.jit
def rows_norm_forward_kernel(
    x, weight, bias, y, mean, variance,
    lines, n, count, groups, members, spatial,
    EPS: tl.constexpr, CENTRED: tl.constexpr, BY_LINE: tl.constexpr, INDEX: tl.constexpr,
    ACCUMULATOR: tl.constexpr, LINES: tl.constexpr, ITEMS: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """y, mean and variance of whole lines, which stay in registers; not CENTRED, the mean counts as 0.

    Corrected two-pass algorithm: the first mean is rounded, the deviations' own mean says by how much.
    """
    tile = tl.program_id(0)
    line, item, offset, inside = line_tile(tile, tile * 0, lines, n, 1, LINES, ITEMS, AXIS)
    value = tl.load(x + offset, mask=inside, other=0.0).to(ACCUMULATOR)
    centre = tl.zeros((LINES, 1), ACCUMULATOR)
    if CENTRED:
        centre = tl.sum(value, axis=AXIS, keep_dims=True) / count
        deviation = tl.where(inside, value - centre, 0.0)
        shift = tl.sum(deviation, axis=AXIS, keep_dims=True) / count
        centre += shift
        spread = tl.sum(deviation * deviation, axis=AXIS, keep_dims=True) / count - shift * shift
        spread = tl.where(spread < 0, 0.0, spread)
    else:
        spread = tl.sum(value * value, axis=AXIS, keep_dims=True) / count
    tl.store(mean + line, centre, mask=line < lines)
    tl.store(variance + line, spread, mask=line < lines)
    value = (value - centre) * (1 / tl.sqrt(spread + EPS))
    channel = _channel(line, item, groups, members, spatial, BY_LINE, INDEX)
    if weight is not None:
        value *= tl.load(weight + channel, mask=inside, other=0.0).to(ACCUMULATOR)
    if bias is not None:
        value += tl.load(bias + channel, mask=inside, other=0.0).to(ACCUMULATOR)
    tl.store(y + offset, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def norm_moments_kernel(
    x, means, squares, lines, n, inner, chunks,
    CENTRED: tl.constexpr, ACCUMULATOR: tl.constexpr, LINES: tl.constexpr, ITEMS: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """For each chunk of a line its mean and the sum of (x - mean)^2. means, squares: [lines, chunks]."""
    program = tl.program_id(0)
    line, _, offset, inside = line_tile(program // chunks, program % chunks, lines, n, inner, LINES, ITEMS, AXIS)
    value = tl.load(x + offset, mask=inside, other=0.0).to(ACCUMULATOR)
    place = line * chunks + program % chunks
    if CENTRED:
        count = tl.maximum(tl.minimum(n - (program % chunks).to(tl.int64) * ITEMS, ITEMS), 1)
        centre = tl.sum(value, axis=AXIS, keep_dims=True) / count
        value = tl.where(inside, value - centre, 0.0)
        tl.store(means + place, centre, mask=line < lines)
    tl.store(squares + place, tl.sum(value * value, axis=AXIS, keep_dims=True), mask=line < lines)


@triton.jit
def norm_join_kernel(
    means, squares, mean, variance, lines, outer, n, chunks, count,
    CHUNK: tl.constexpr, CENTRED: tl.constexpr, ACCUMULATOR: tl.constexpr, LINES: tl.constexpr, ITEMS: tl.constexpr,
):  # fmt: skip
    """A line's mean and variance from those of its parts [outer, lines, chunks], chunks of CHUNK elements out of n.

    Source: T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances", 1979. In float64: there are few parts.
    """
    line = tl.program_id(0).to(tl.int64) * LINES + tl.arange(0, LINES)[None, :]
    centre = tl.zeros((1, LINES), ACCUMULATOR)
    spread = tl.zeros((1, LINES), ACCUMULATOR)
    if CENTRED:
        for start in range(0, outer * chunks, ITEMS):
            part = start + tl.arange(0, ITEMS)[:, None]
            offset = ((part // chunks).to(tl.int64) * lines + line) * chunks + part % chunks
            inside = (line < lines) & (part < outer * chunks)
            size = tl.minimum(n - (part % chunks).to(tl.int64) * CHUNK, CHUNK).to(ACCUMULATOR)
            centre += tl.sum(size * tl.load(means + offset, mask=inside, other=0.0), axis=0, keep_dims=True)
        centre /= count
    for start in range(0, outer * chunks, ITEMS):
        part = start + tl.arange(0, ITEMS)[:, None]
        offset = ((part // chunks).to(tl.int64) * lines + line) * chunks + part % chunks
        inside = (line < lines) & (part < outer * chunks)
        value = tl.load(squares + offset, mask=inside, other=0.0).to(ACCUMULATOR)
        if CENTRED:
            size = tl.minimum(n - (part % chunks).to(tl.int64) * CHUNK, CHUNK).to(ACCUMULATOR)
            deviation = tl.load(means + offset, mask=inside, other=0.0) - centre
            value += tl.where(inside, size * deviation * deviation, 0.0)
        spread += tl.sum(value, axis=0, keep_dims=True)
    tl.store(mean + line, centre.to(mean.dtype.element_ty), mask=line < lines)
    tl.store(variance + line, (spread / count).to(variance.dtype.element_ty), mask=line < lines)


@triton.jit
def norm_write_kernel(
    x, mean, variance, weight, bias, y,
    lines, n, inner, chunks, statistics, groups, members, spatial,
    EPS: tl.constexpr, RELU: tl.constexpr, BY_LINE: tl.constexpr, INDEX: tl.constexpr,
    ACCUMULATOR: tl.constexpr, LINES: tl.constexpr, ITEMS: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """y of one chunk of each line, from a mean and variance that are known; with RELU 0 where that is negative."""
    program = tl.program_id(0)
    line, item, offset, inside = line_tile(program // chunks, program % chunks, lines, n, inner, LINES, ITEMS, AXIS)
    statistic = line % statistics
    centre = tl.load(mean + statistic, mask=line < lines, other=0.0).to(ACCUMULATOR)
    rstd = 1 / tl.sqrt(tl.load(variance + statistic, mask=line < lines, other=1.0).to(ACCUMULATOR) + EPS)
    value = (tl.load(x + offset, mask=inside, other=0.0).to(ACCUMULATOR) - centre) * rstd
    channel = _channel(line, item, groups, members, spatial, BY_LINE, INDEX)
    if weight is not None:
        value *= tl.load(weight + channel, mask=inside, other=0.0).to(ACCUMULATOR)
    if bias is not None:
        value += tl.load(bias + channel, mask=inside, other=0.0).to(ACCUMULATOR)
    if RELU:
        value = tl.where(value < 0, 0.0, value)
    tl.store(y + offset, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def norm_grad_sums_kernel(
    x, grad_y, weight, relu_weight, relu_bias, mean, variance, sums, products,
    lines, n, inner, chunks, statistics, owners, groups, members, spatial,
    EPS: tl.constexpr, RELU: tl.constexpr, BY_ITEM: tl.constexpr, BY_LINE: tl.constexpr, INDEX: tl.constexpr,
    ACCUMULATOR: tl.constexpr, LINES: tl.constexpr, ITEMS: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """For each chunk of a line the sums of grad_y and of grad_y x^, both times the weight if one is given.

    sums, products: [lines, chunks]. A line's statistic is line % statistics // owners; BY_ITEM, for columns through
    rows that have one each, the item. With RELU, a line has one channel, and grad_y counts where relu_weight x^ +
    relu_bias is above 0.
    """
    program = tl.program_id(0)
    line, item, offset, inside = line_tile(program // chunks, program % chunks, lines, n, inner, LINES, ITEMS, AXIS)
    if BY_ITEM:
        statistic, known = item, item < n
    else:
        statistic, known = line % statistics // owners, line < lines
    centre = tl.load(mean + statistic, mask=known, other=0.0).to(ACCUMULATOR)
    rstd = 1 / tl.sqrt(tl.load(variance + statistic, mask=known, other=1.0).to(ACCUMULATOR) + EPS)
    value = (tl.load(x + offset, mask=inside, other=0.0).to(ACCUMULATOR) - centre) * rstd
    gradient = tl.load(grad_y + offset, mask=inside, other=0.0).to(ACCUMULATOR)
    if RELU:
        gradient = _rectified(gradient, value, relu_weight, relu_bias, line % groups, line < lines, ACCUMULATOR)
    if weight is not None:
        channel = _channel(line, item, groups, members, spatial, BY_LINE, INDEX)
        gradient *= tl.load(weight + channel, mask=inside, other=0.0).to(ACCUMULATOR)
    place = line * chunks + program % chunks
    tl.store(sums + place, tl.sum(gradient, axis=AXIS, keep_dims=True), mask=line < lines)
    # Past the line's end the gradient is 0, but x^ may be infinite where eps and a variance are 0.
    product = tl.where(inside, gradient * value, 0.0)
    tl.store(products + place, tl.sum(product, axis=AXIS, keep_dims=True), mask=line < lines)


@triton.jit
def rows_norm_grad_x_kernel(
    x, grad_y, weight, mean, variance, grad_mean, grad_variance, grad_x,
    lines, n, count, groups, members, spatial,
    EPS: tl.constexpr, CENTRED: tl.constexpr, BY_LINE: tl.constexpr, INDEX: tl.constexpr,
    ACCUMULATOR: tl.constexpr, LINES: tl.constexpr, ITEMS: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """grad_x of whole lines: x and grad_y are read once. grad_mean, grad_variance: [lines] or None."""
    tile = tl.program_id(0)
    line, item, offset, inside = line_tile(tile, tile * 0, lines, n, 1, LINES, ITEMS, AXIS)
    known = line < lines
    centre = tl.load(mean + line, mask=known, other=0.0).to(ACCUMULATOR)
    rstd = 1 / tl.sqrt(tl.load(variance + line, mask=known, other=1.0).to(ACCUMULATOR) + EPS)
    gradient = tl.load(grad_y + offset, mask=inside, other=0.0).to(ACCUMULATOR)
    if weight is not None:
        channel = _channel(line, item, groups, members, spatial, BY_LINE, INDEX)
        gradient *= tl.load(weight + channel, mask=inside, other=0.0).to(ACCUMULATOR)
    value = tl.load(x + offset, mask=inside, other=0.0).to(ACCUMULATOR) - centre
    products = tl.sum(tl.where(inside, gradient * value, 0.0), axis=AXIS, keep_dims=True)
    slope = -products * rstd * rstd * rstd
    constant = tl.zeros((LINES, 1), ACCUMULATOR)
    if CENTRED:
        constant = -tl.sum(gradient, axis=AXIS, keep_dims=True) * rstd
    if grad_mean is not None:
        constant += tl.load(grad_mean + line, mask=known, other=0.0).to(ACCUMULATOR)
    if grad_variance is not None:
        slope += 2 * tl.load(grad_variance + line, mask=known, other=0.0).to(ACCUMULATOR)
    result = gradient * rstd + value * (slope / count) + constant / count
    tl.store(grad_x + offset, result.to(grad_x.dtype.element_ty), mask=inside)


@triton.jit
def norm_grad_x_kernel(
    x, grad_y, weight, bias, mean, variance, sums, products, grad_mean, grad_variance, grad_x,
    lines, n, inner, chunks, count, statistics, groups, members, spatial,
    EPS: tl.constexpr, RELU: tl.constexpr, CENTRED: tl.constexpr, WEIGHTED: tl.constexpr, BY_LINE: tl.constexpr,
    INDEX: tl.constexpr,
    ACCUMULATOR: tl.constexpr, LINES: tl.constexpr, ITEMS: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """grad_x of one chunk of each line, from its statistic's sums of grad_y and grad_y x^: WEIGHTED if they hold the
    weight already. No sums: mean and variance do not depend on x. With RELU, a line has one channel, and grad_y counts
    where weight x^ + bias is above 0."""
    program = tl.program_id(0)
    line, item, offset, inside = line_tile(program // chunks, program % chunks, lines, n, inner, LINES, ITEMS, AXIS)
    statistic, known = line % statistics, line < lines
    rstd = 1 / tl.sqrt(tl.load(variance + statistic, mask=known, other=1.0).to(ACCUMULATOR) + EPS)
    gradient = tl.load(grad_y + offset, mask=inside, other=0.0).to(ACCUMULATOR)
    if RELU:
        centre = tl.load(mean + statistic, mask=known, other=0.0).to(ACCUMULATOR)
        value = (tl.load(x + offset, mask=inside, other=0.0).to(ACCUMULATOR) - centre) * rstd
        gradient = _rectified(gradient, value, weight, bias, line % groups, known, ACCUMULATOR)
    factor = rstd
    if weight is not None:
        channel = _channel(line, item, groups, members, spatial, BY_LINE, INDEX)
        gradient *= tl.load(weight + channel, mask=inside, other=0.0).to(ACCUMULATOR)
        if not WEIGHTED:
            factor *= tl.load(weight + line % groups, mask=known, other=0.0).to(ACCUMULATOR)
    result = gradient * rstd
    if sums is not None:
        # With RELU the compiler has both in registers; without, it shall load them here and not before.
        centre = tl.load(mean + statistic, mask=known, other=0.0).to(ACCUMULATOR)
        value = tl.load(x + offset, mask=inside, other=0.0).to(ACCUMULATOR) - centre
        slope = -tl.load(products + statistic, mask=known, other=0.0).to(ACCUMULATOR) * factor * rstd
        constant = tl.zeros(slope.shape, ACCUMULATOR)
        if CENTRED:
            constant = -tl.load(sums + statistic, mask=known, other=0.0).to(ACCUMULATOR) * factor
        if grad_mean is not None:
            constant += tl.load(grad_mean + statistic, mask=known, other=0.0).to(ACCUMULATOR)
        if grad_variance is not None:
            slope += 2 * tl.load(grad_variance + statistic, mask=known, other=0.0).to(ACCUMULATOR)
        result += value * (slope / count) + constant / count
    tl.store(grad_x + offset, result.to(grad_x.dtype.element_ty), mask=inside)


@triton.jit
def inference_grad_statistics_kernel(
    sums, products, weight, variance, grad_mean, grad_variance, channels,
    EPS: tl.constexpr, ACCUMULATOR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradients of a given mean and variance [C] from the channels' sums of grad_y and grad_y x^."""
    channel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < channels
    factor = 1 / tl.sqrt(tl.load(variance + channel, mask=inside, other=1.0).to(ACCUMULATOR) + EPS)
    slope = -0.5 * factor * factor
    if weight is not None:
        scale = tl.load(weight + channel, mask=inside, other=0.0).to(ACCUMULATOR)
        factor, slope = factor * scale, slope * scale
    of_mean = -factor * tl.load(sums + channel, mask=inside, other=0.0)
    of_variance = slope * tl.load(products + channel, mask=inside, other=0.0)
    tl.store(grad_mean + channel, of_mean.to(grad_mean.dtype.element_ty), mask=inside)
    tl.store(grad_variance + channel, of_variance.to(grad_variance.dtype.element_ty), mask=inside)


@triton.jit
def running_average_kernel(
    running, value, result, channels, rows,
    factor: "fp64", share: "fp64",  # noqa: F821 (Triton's name of the type)
    LINES: tl.constexpr, ITEMS: tl.constexpr,
):  # fmt: skip
    """result = running + factor (share * sum of value's rows - running), value [rows, C]; in float64, as there are few
    and the factors are not known when this is compiled."""
    channel = tl.program_id(0).to(tl.int64) * LINES + tl.arange(0, LINES)[None, :]
    total = tl.zeros((1, LINES), tl.float64)
    for start in range(0, rows, ITEMS):
        row = (start + tl.arange(0, ITEMS)[:, None]).to(tl.int64)
        inside = (row < rows) & (channel < channels)
        part = tl.load(value + row * channels + channel, mask=inside, other=0.0).to(tl.float64)
        total += tl.sum(part, axis=0, keep_dims=True)
    before = tl.load(running + channel, mask=channel < channels, other=0.0).to(tl.float64)
    after = before + factor * (share * total - before)
    tl.store(result + channel, after.to(result.dtype.element_ty), mask=channel < channels)
