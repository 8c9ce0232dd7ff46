"""Padding layers: a border around the last one, two or three axes."""

from __future__ import annotations

from . import functional
from .layer import Layer

__all__ = [
    f"{kind}Pad{rank}d" for kind in ("Zero", "Constant", "Reflection", "Replication", "Circular") for rank in (1, 2, 3)
]


class _Pad(Layer):
    """A border around the last axes; its `rank` is in the class's name.

    Args:
        padding: one width for all sides, or (before, after) of the last axis, then of the one before it, and so on.
            Negative widths crop, where the border is a constant.

    Shapes:
        input: [N, C, *sizes] or [C, *sizes], with `rank` sizes.
    """

    rank: int
    mode = "constant"
    value = 0.0

    def __init__(self, padding: int | tuple[int, ...]):
        super().__init__()
        self.padding = (padding,) * (2 * self.rank) if isinstance(padding, int) else tuple(padding)
        if len(self.padding) != 2 * self.rank:
            raise ValueError(f"{type(self).__name__}: expected {2 * self.rank} widths of padding, got {padding}")

    def forward(self, input):
        if input.ndim not in (self.rank + 1, self.rank + 2):
            raise ValueError(
                f"{type(self).__name__}: expected input as [N, C, *sizes] or [C, *sizes] with {self.rank} sizes, "
                f"got shape {input.shape}"
            )
        return functional.pad(input, self.padding, self.mode, self.value if self.mode == "constant" else None)

    def extra_repr(self) -> str:
        return str(self.padding)


class ZeroPad1d(_Pad):
    """A border of zeros around the last axis."""

    rank = 1


class ZeroPad2d(_Pad):
    """A border of zeros around the last two axes."""

    rank = 2


class ZeroPad3d(_Pad):
    """A border of zeros around the last three axes."""

    rank = 3


class _ConstantPad(_Pad):
    """A border of one value.

    Args:
        padding: as for ZeroPad.
        value: what the border is filled with.
    """

    def __init__(self, padding: int | tuple[int, ...], value: float):
        super().__init__(padding)
        self.value = value

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class ConstantPad1d(_ConstantPad):
    """A border of `value` around the last axis."""

    rank = 1


class ConstantPad2d(_ConstantPad):
    """A border of `value` around the last two axes."""

    rank = 2


class ConstantPad3d(_ConstantPad):
    """A border of `value` around the last three axes."""

    rank = 3


class ReflectionPad1d(_Pad):
    """A border that mirrors what lies inside, without the edge itself, around the last axis."""

    rank, mode = 1, "reflect"


class ReflectionPad2d(_Pad):
    """A border that mirrors what lies inside, without the edge itself, around the last two axes."""

    rank, mode = 2, "reflect"


class ReflectionPad3d(_Pad):
    """A border that mirrors what lies inside, without the edge itself, around the last three axes."""

    rank, mode = 3, "reflect"


class ReplicationPad1d(_Pad):
    """A border that repeats the edge, around the last axis."""

    rank, mode = 1, "replicate"


class ReplicationPad2d(_Pad):
    """A border that repeats the edge, around the last two axes."""

    rank, mode = 2, "replicate"


class ReplicationPad3d(_Pad):
    """A border that repeats the edge, around the last three axes."""

    rank, mode = 3, "replicate"


class CircularPad1d(_Pad):
    """A border that goes on at the other end, around the last axis."""

    rank, mode = 1, "circular"


class CircularPad2d(_Pad):
    """A border that goes on at the other end, around the last two axes."""

    rank, mode = 2, "circular"


class CircularPad3d(_Pad):
    """A border that goes on at the other end, around the last three axes."""

    rank, mode = 3, "circular"
