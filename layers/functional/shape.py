"""Shapes, indexing and joining, with PyTorch's names, argument names and defaults.

What only looks at memory in another way (reshape, transpose, expand, basic slices) is a view of the same array where
NumPy can make one; what moves elements is a kernel.
"""

import math
import operator

import numpy as np

from ...kernels import device as devices
from ...kernels import shape as kernels
from ...kernels.elementwise import broadcasting
from ..tensor import Tensor, apply, record
from .promotion import promoted

__all__ = [
    "argwhere",
    "broadcast_to",
    "cat",
    "chunk",
    "concat",
    "concatenate",
    "expand",
    "flatten",
    "flip",
    "gather",
    "getitem",
    "index_select",
    "masked_select",
    "movedim",
    "narrow",
    "pad",
    "permute",
    "ravel",
    "repeat",
    "repeat_interleave",
    "reshape",
    "roll",
    "select",
    "split",
    "squeeze",
    "stack",
    "swapaxes",
    "take_along_dim",
    "tile",
    "transpose",
    "tril",
    "triu",
    "unbind",
    "unflatten",
    "unsqueeze",
]


def _tensor(input):
    return input if isinstance(input, Tensor) else Tensor(input)


def axis_of(name: str, dim, ndim: int) -> int:
    """dim as an axis in [0, ndim); a scalar counts as having one.

    Raises:
        TypeError, ValueError: not an integer, or out of range.
    """
    try:
        axis = operator.index(dim)
    except TypeError:
        raise TypeError(f"{name}: expected dim as an integer, got {type(dim).__qualname__}") from None
    size = max(ndim, 1)
    if not -size <= axis < size:
        raise ValueError(f"{name}: expected dim in [{-size}, {size}), got {axis}")
    return axis % size


def _sizes(name: str, sizes) -> tuple[int, ...]:
    """(2, 3) from f(2, 3) or f((2, 3))."""
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = sizes[0]
    try:
        return tuple(operator.index(size) for size in sizes)
    except TypeError:
        raise TypeError(f"{name}: expected integers, got {sizes!r}") from None


def broadcast_shape(name: str, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in which shapes meet, or ValueError."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(f"{name}: expected shapes that broadcast, got {' and '.join(map(str, shapes))}") from None


# ---- views


def _reshape_backward(shape, grad, needs):
    return (devices.reshaped(grad, shape),)


def reshape(input, *shape):
    """The same elements in another shape, of which one size may be -1. `shape` is a tuple, or the sizes one by one."""
    input, shape = _tensor(input), _sizes("reshape", shape)
    if shape and min(shape) < -1:  # NumPy takes any negative size for the unknown one
        raise ValueError(f"reshape: expected sizes of 0 or more, or one -1, got {shape}")
    try:
        output = devices.reshaped(input.array, shape)
    except ValueError:
        raise ValueError(f"reshape: expected a shape of {input.size} elements, got {shape}") from None
    return record("reshape", _reshape_backward, input.shape, (input,), output)


def flatten(input, start_dim=0, end_dim=-1):
    """The axes start_dim, ..., end_dim as one."""
    input = _tensor(input)
    if input.ndim == 0:
        return reshape(input, (1,))
    start, end = axis_of("flatten", start_dim, input.ndim), axis_of("flatten", end_dim, input.ndim)
    if start > end:
        raise ValueError(f"flatten: expected start_dim up to end_dim, got {start_dim} and {end_dim}")
    # The product and not -1, which a shape with a zero would leave open.
    return reshape(input, (*input.shape[:start], math.prod(input.shape[start : end + 1]), *input.shape[end + 1 :]))


def ravel(input):
    """All elements in one axis."""
    return flatten(input)


def unflatten(input, dim, sizes):
    """The axis `dim` split into axes of `sizes`, of which one may be -1."""
    input = _tensor(input)
    axis, sizes = axis_of("unflatten", dim, input.ndim), _sizes("unflatten", (sizes,))
    known = math.prod(size for size in sizes if size != -1)
    whole = input.shape[axis]
    if sizes.count(-1) > 1 or (known != whole if -1 not in sizes else known == 0 or whole % known):
        raise ValueError(f"unflatten: expected sizes whose product is {whole}, got {sizes}")
    sizes = tuple(whole // known if size == -1 else size for size in sizes)
    return reshape(input, (*input.shape[:axis], *sizes, *input.shape[axis + 1 :]))


def _permute_backward(axes, grad, needs):
    back = sorted(range(len(axes)), key=axes.__getitem__)
    return (grad.transpose(back),)


def permute(input, *dims):
    """The axes in another order. `dims` is a tuple, or the axes one by one."""
    input = _tensor(input)
    ndim = input.array.ndim
    axes = tuple([axis_of("permute", dim, ndim) for dim in _sizes("permute", dims)])
    if sorted(axes) != list(range(ndim)):
        raise ValueError(f"permute: expected each of {ndim} axes once, got {axes}")
    return record("permute", _permute_backward, axes, (input,), input.array.transpose(axes))


def transpose(input, dim0, dim1):
    """Two axes exchanged."""
    input = _tensor(input)
    first, second = axis_of("transpose", dim0, input.ndim), axis_of("transpose", dim1, input.ndim)
    axes = list(range(input.ndim))
    if axes:
        axes[first], axes[second] = second, first
    return permute(input, axes)


swapaxes = transpose


def movedim(input, source, destination):
    """One axis, or several, at another place; the others keep their order."""
    input = _tensor(input)
    source, destination = ((x,) if not isinstance(x, (tuple, list)) else x for x in (source, destination))
    source = [axis_of("movedim", dim, input.ndim) for dim in source]
    destination = [axis_of("movedim", dim, input.ndim) for dim in destination]
    if len(set(source)) < len(source) or len(set(destination)) < len(destination) or len(source) != len(destination):
        raise ValueError(f"movedim: expected as many places as axes, each once, got {source} and {destination}")
    axes = [axis for axis in range(input.ndim) if axis not in source]
    for place, axis in sorted(zip(destination, source)):
        axes.insert(place, axis)
    return permute(input, axes)


def squeeze(input, dim=None):
    """Without axes of size 1: all of them, or those in `dim` (an axis or a tuple of them) that have size 1."""
    input = _tensor(input)
    dims = range(input.ndim) if dim is None else dim if isinstance(dim, (tuple, list)) else (dim,)
    axes = {axis_of("squeeze", axis, input.ndim) for axis in dims}
    return reshape(input, tuple(n for axis, n in enumerate(input.shape) if n != 1 or axis not in axes))


def unsqueeze(input, dim):
    """With a new axis of size 1 before the axis `dim`."""
    input = _tensor(input)
    axis = axis_of("unsqueeze", dim, input.ndim + 1)
    return reshape(input, (*input.shape[:axis], 1, *input.shape[axis:]))


def _expand_backward(shape, grad, needs):
    return (broadcasting.sum_to_shape(grad, shape),)


def expand(input, *sizes):
    """Axes of size 1 stretched to `sizes`, and new axes in front, without a copy; -1 keeps an axis as it is."""
    input, sizes = _tensor(input), _sizes("expand", sizes)
    added = len(sizes) - input.ndim
    if added < 0 or any(size == -1 for size in sizes[:added]):
        raise ValueError(f"expand: expected a size for each of {input.ndim} axes or more, got {sizes}")
    old = (1,) * added + input.shape
    shape = tuple(n if size == -1 else size for n, size in zip(old, sizes))
    if any(n not in (1, size) for n, size in zip(old, shape)):
        raise ValueError(f"expand: expected sizes that {input.shape} broadcasts to, got {sizes}")
    return record("expand", _expand_backward, input.shape, (input,), broadcasting.broadcast_to(input.array, shape))


def broadcast_to(input, size):
    """`expand` to a shape given as one tuple."""
    return expand(input, tuple(size))


def repeat(input, *sizes):
    """input laid side by side sizes[i] times along axis i; more sizes than axes add axes in front."""
    input, sizes = _tensor(input), _sizes("repeat", sizes)
    added = len(sizes) - input.ndim
    if added < 0 or any(size < 0 for size in sizes):
        raise ValueError(f"repeat: expected at least {input.ndim} sizes of 0 or more, got {sizes}")
    old = (1,) * added + input.shape
    pairs = tuple(x for pair in zip(sizes, old) for x in pair)
    between = reshape(input, tuple(x for n in old for x in (1, n)))
    return reshape(expand(between, pairs), tuple(size * n for size, n in zip(sizes, old)))


def tile(input, dims):
    """`repeat`, where fewer sizes than axes count for the last ones."""
    input, dims = _tensor(input), _sizes("tile", (dims,))
    return repeat(input, (1,) * (input.ndim - len(dims)) + dims)


def repeat_interleave(input, repeats, dim=None):
    """Every element `repeats` times in a row, along the axis `dim` or of the flattened input."""
    input = flatten(input) if dim is None else _tensor(input)
    (repeats,) = _sizes("repeat_interleave", (repeats,))
    if repeats < 0:
        raise ValueError(f"repeat_interleave: expected repeats of 0 or more, got {repeats}")
    axis = axis_of("repeat_interleave", 0 if dim is None else dim, input.ndim)
    stretched = expand(unsqueeze(input, axis + 1), (*input.shape[: axis + 1], repeats, *input.shape[axis + 1 :]))
    return flatten(stretched, axis, axis + 1)


# ---- indexing


def _slice_backward(saved, grad, needs):
    shape, index = saved
    return (kernels.scatter_slice.forward(grad, shape=shape, index=index)[0],)


def _basic_index(input, index: tuple):
    output = input.array[(*index, ...)] if Ellipsis not in index else input.array[index]
    return record("slice", _slice_backward, (input.shape, index), (input,), output)


def getitem(input, index):
    """input[index], as Python writes it: integers, slices, None, Ellipsis, and arrays or tensors of integers or bools.

    Raises:
        IndexError: an integer out of range, or more indices than axes.
        ValueError: an element of an index array out of range.
    """
    input = _tensor(input)
    index = tuple(_index_item(item, input) for item in (index if isinstance(index, tuple) else (index,)))
    if not any(hasattr(item, "dtype") for item in index):
        return _basic_index(input, index)
    return _advanced_index(input, index)


def _index_item(item, input):
    """Integers as Python's own, tensors as arrays, lists as arrays on the device of what they index."""
    if item is None or item is Ellipsis or type(item) is int:
        return item
    if isinstance(item, slice):
        return slice(*(x if x is None else operator.index(x) for x in (item.start, item.stop, item.step)))
    if isinstance(item, Tensor):
        return item.array
    if isinstance(item, (bool, list, np.bool_)):
        item = np.asarray(item)
        return devices.to_device(item.astype(np.int64) if item.size == 0 else item, input.device)
    if hasattr(item, "ndim") and item.ndim:
        return item
    try:
        return operator.index(item)
    except TypeError:
        raise TypeError(
            f"index: expected integers, slices, None, ... or arrays of integers or bools, got {type(item).__qualname__}"
        ) from None


def _advanced_index(input, index: tuple):
    """Integers and slices first, as a view; then the arrays, on axes next to each other."""
    used = sum(item.ndim if _is_mask(item) else 1 for item in index if item is not None and item is not Ellipsis)
    if used > input.ndim:
        raise IndexError(f"index: expected up to {input.ndim} indices for shape {input.shape}, got {used}")
    if not any(item is Ellipsis for item in index):
        index = (*index, Ellipsis)
    place = next(k for k, item in enumerate(index) if item is Ellipsis)
    index = index[:place] + (slice(None),) * (input.ndim - used) + index[place + 1 :]

    basic, arrays, axis, source = [], {}, 0, 0  # arrays: axis of the view -> index array
    for item in index:
        if not hasattr(item, "dtype"):
            basic.append(item)
            axis += type(item) is not int
            source += item is not None
        elif _is_mask(item):
            if item.shape != input.shape[source : source + item.ndim]:
                raise IndexError(
                    f"index: expected a mask of shape {input.shape[source : source + item.ndim]}, got {item.shape}"
                )
            for positions in devices.nonzero(item.reshape(1) if item.ndim == 0 else item):
                if item.ndim == 0:
                    basic.append(None)
                arrays[axis] = positions
                axis += 1
            basic += [slice(None)] * item.ndim
            source += item.ndim
        else:
            basic.append(slice(None))
            arrays[axis] = item
            axis += 1
            source += 1
    view = _basic_index(input, tuple(basic))
    first, count = min(arrays), len(arrays)
    if sorted(arrays) != list(range(first, first + count)):
        # Arrays apart from each other: as in NumPy and PyTorch, their axes come first.
        view = permute(view, [*arrays, *(k for k in range(view.ndim) if k not in arrays)])
        first = 0
    return apply(kernels.advanced_index, view, *arrays.values(), axis=first)


def _is_mask(item) -> bool:
    return hasattr(item, "dtype") and item.dtype.kind == "b"


def select(input, dim, index):
    """The slice at `index` of the axis `dim`, without that axis."""
    input = _tensor(input)
    return getitem(input, (slice(None),) * axis_of("select", dim, input.ndim) + (index,))


def narrow(input, dim, start, length):
    """`length` elements of the axis `dim` from `start` on."""
    input = _tensor(input)
    axis = axis_of("narrow", dim, input.ndim)
    start = start + input.shape[axis] if start < 0 else start
    if start < 0 or length < 0 or start + length > input.shape[axis]:
        raise ValueError(f"narrow: expected a range within {input.shape[axis]}, got start {start}, length {length}")
    return getitem(input, (slice(None),) * axis + (slice(start, start + length),))


def flip(input, *dims):
    """The axes `dims` (a tuple, or the axes one by one) backwards."""
    input = _tensor(input)
    axes = {axis_of("flip", dim, input.ndim) for dim in _sizes("flip", dims)}
    return _basic_index(input, tuple(slice(None, None, -1 if k in axes else None) for k in range(input.ndim)))


def index_select(input, dim, index):
    """The entries `index` (a vector of integers) of the axis `dim`."""
    input = _tensor(input)
    return apply(kernels.advanced_index, input, index, axis=axis_of("index_select", dim, input.ndim))


def masked_select(input, mask):
    """The elements where the mask holds, in one axis; input and mask broadcast."""
    shape = broadcast_shape("masked_select", input.shape, mask.shape)
    return getitem(expand(input, shape), expand(mask, shape))


def argwhere(input):
    """Where elements are not 0: int64 [count, axes]."""
    input = _tensor(input)
    columns = [Tensor(positions) for positions in devices.nonzero(input.array)]
    return stack(columns, 1)


def gather(input, dim, index):
    """output[i, j, k] = input[i, index[i, j, k], k] for dim 1, and likewise for others.

    Args:
        input: any shape.
        dim: the axis that index names entries of.
        index: integers in [0, size of dim), of input's rank, in the other axes no longer than input.
    """
    input = _tensor(input)
    return apply(kernels.gather, input, index, axis=axis_of("gather", dim, input.ndim))


def take_along_dim(input, indices, dim):
    """`gather`, where the other axes of input and indices broadcast."""
    input, indices = _tensor(input), _tensor(indices)
    axis = axis_of("take_along_dim", dim, input.ndim)
    shape = broadcast_shape("take_along_dim", *((*x.shape[:axis], 1, *x.shape[axis + 1 :]) for x in (input, indices)))
    input, indices = (expand(x, (*shape[:axis], x.shape[axis], *shape[axis + 1 :])) for x in (input, indices))
    return gather(input, axis, indices)


# ---- joining and cutting


def cat(tensors, dim=0):
    """The tensors after one another along the axis `dim`; mixed types meet as in arithmetic."""
    if not tensors:
        raise ValueError("cat: expected at least one tensor, got none")
    tensors = promoted("cat", *tensors)
    return apply(kernels.concatenate, *tensors, axis=axis_of("cat", dim, tensors[0].ndim))


concat = concatenate = cat


def stack(tensors, dim=0):
    """Tensors of one shape along a new axis before the axis `dim`."""
    tensors = [_tensor(x) for x in tensors]
    if any(x.shape != tensors[0].shape for x in tensors):
        raise ValueError(f"stack: expected tensors of one shape, got {', '.join(str(x.shape) for x in tensors)}")
    return cat([unsqueeze(x, dim) for x in tensors], dim)


def split(tensor, split_size_or_sections, dim=0):
    """Views of parts along the axis `dim`: parts of one size (the last may be smaller), or of the sizes listed."""
    tensor = _tensor(tensor)
    axis = axis_of("split", dim, tensor.ndim)
    if isinstance(split_size_or_sections, (tuple, list)):
        sizes = _sizes("split", (split_size_or_sections,))
    else:
        whole, part = tensor.shape[axis], operator.index(split_size_or_sections)
        if part < 1:
            raise ValueError(f"split: expected a size of at least 1, got {part}")
        sizes = tuple(min(part, whole - start) for start in range(0, whole, part)) or (0,)
    return (tensor,) if sizes == (tensor.shape[axis],) else apply(kernels.split, tensor, sizes=sizes, axis=axis)


def chunk(input, chunks, dim=0):
    """Views of up to `chunks` parts of one size along the axis `dim`; the last may be smaller."""
    input = _tensor(input)
    whole = input.shape[axis_of("chunk", dim, input.ndim)]
    if chunks < 1:
        raise ValueError(f"chunk: expected at least 1 chunk, got {chunks}")
    return split(input, max(-(-whole // chunks), 1), dim)


def unbind(input, dim=0):
    """Views of all entries of the axis `dim`, without that axis."""
    input = _tensor(input)
    if input.shape[axis_of("unbind", dim, input.ndim)] == 0:
        return ()
    return tuple(squeeze(part, dim) for part in split(input, 1, dim))


# ---- padding, shifting, triangles


def pad(input, pad, mode="constant", value=None):
    """A border around the last axes.

    Args:
        input: any shape.
        pad: (before, after) of the last axis, then of the one before it, and so on; negative widths crop.
        mode: 'constant', 'reflect', 'replicate' or 'circular'.
        value: the constant, 0 by default.
    """
    input, flat = _tensor(input), _sizes("pad", (pad,))
    if len(flat) % 2 or len(flat) > 2 * input.ndim:
        raise ValueError(f"pad: expected up to {input.ndim} pairs of widths, got {flat}")
    pairs = tuple(zip(flat[::2], flat[1::2]))[::-1]
    widths = ((0, 0),) * (input.ndim - len(pairs)) + pairs
    return apply(kernels.pad, input, widths=widths, mode=mode, value=0.0 if value is None else value)


def roll(input, shifts, dims=None):
    """Elements moved on by `shifts` along the axes `dims`, round the end; without dims along the flattened input."""
    input = _tensor(input)
    if dims is None:
        return reshape(roll(flatten(input), shifts, 0), input.shape)
    shifts, dims = (x if isinstance(x, (tuple, list)) else (x,) for x in (shifts, dims))
    axes = tuple(axis_of("roll", dim, input.ndim) for dim in dims)
    return apply(kernels.roll, input, shifts=_sizes("roll", (shifts,)), axes=axes)


def tril(input, diagonal=0):
    """Zeros above the diagonal of the last two axes; positive numbers name diagonals above the main one."""
    return apply(kernels.triangle, input, diagonal=diagonal, upper=False)


def triu(input, diagonal=0):
    """Zeros below the diagonal of the last two axes; positive numbers name diagonals above the main one."""
    return apply(kernels.triangle, input, diagonal=diagonal, upper=True)
