"""Broadcasting's backward: summing a gradient back to the shape that was stretched."""


def sum_to_shape(x, shape):
    """x summed over the axes that broadcasting added or stretched, so that it has `shape` again."""
    if x.shape == shape:
        return x
    x = x.sum(axis=tuple(range(x.ndim - len(shape))))
    stretched = tuple(axis for axis, size in enumerate(shape) if size == 1 and x.shape[axis] != 1)
    return x.sum(axis=stretched, keepdims=True) if stretched else x
