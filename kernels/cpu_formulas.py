"""Formulas in Python's operators, written down as LLVM's instructions: what intrinsics over single numbers consist of.

A `Number` stands for a value that a kernel will compute; `2.0 * x + y` makes the instructions for it. LLVM contracts
and vectorises them with the loop that they are in, by the fastmath flags of its kernel.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils

_FLOAT, _INTEGER = ir.FloatType(), ir.IntType(32)


class Number:
    """A value in LLVM: a float32, a float64, a 32-bit integer, or a comparison's outcome.

    Operators take Python's numbers beside it, in its own type.

    Args:
        builder: where instructions are added.
        value: LLVM's value.
    """

    def __init__(self, builder, value):
        self.builder, self.value = builder, value

    def like(self, other) -> Number:
        """A Python number as one of this type; a Number as it is."""
        return other if isinstance(other, Number) else Number(self.builder, ir.Constant(self.value.type, other))

    @property
    def is_integer(self) -> bool:
        """Whether it counts or holds bits."""
        return self.value.type == _INTEGER

    def __add__(self, other):
        return self._with(self.builder.add if self.is_integer else self.builder.fadd, other)

    def __sub__(self, other):
        return self._with(self.builder.sub if self.is_integer else self.builder.fsub, other)

    def __mul__(self, other):
        return self._with(self.builder.fmul, other)

    def __truediv__(self, other):
        return self._with(self.builder.fdiv, other)

    def __rmul__(self, other):
        return self.like(other) * self

    def __radd__(self, other):
        return self.like(other) + self

    def __rtruediv__(self, other):
        return self.like(other) / self

    def __neg__(self):
        return self.like(0) - self if self.is_integer else Number(self.builder, self.builder.fneg(self.value))

    def __lshift__(self, other):
        return self._with(self.builder.shl, other)

    def __rshift__(self, other):
        return self._with(self.builder.ashr, other)

    def __lt__(self, other):
        return self._compared("<", other)

    def __gt__(self, other):
        return self._compared(">", other)

    def equals(self, other) -> Number:
        """Whether both are the same number: no NaN is."""
        return self._compared("==", other)

    def bits(self) -> Number:
        """A float32's bits as an integer."""
        return Number(self.builder, self.builder.bitcast(self.value, _INTEGER))

    def from_bits(self) -> Number:
        """The float32 that has an integer's bits."""
        return Number(self.builder, self.builder.bitcast(self.value, _FLOAT))

    def as_float(self) -> Number:
        """An integer as float32."""
        return Number(self.builder, self.builder.sitofp(self.value, _FLOAT))

    def _with(self, instruction, other):
        return Number(self.builder, instruction(self.value, self.like(other).value))

    def _compared(self, order, other):
        compare = self.builder.icmp_signed if self.is_integer else self.builder.fcmp_ordered
        return Number(self.builder, compare(order, self.value, self.like(other).value))


def choose(condition: Number, x, y) -> Number:
    """x where the condition holds, else y; one of the two is a Number."""
    x, y = (y.like(x), y) if isinstance(y, Number) else (x, x.like(y))
    return Number(condition.builder, condition.builder.select(condition.value, x.value, y.value))


def largest(x: Number, y) -> Number:
    """The larger of two; x where they do not compare."""
    return choose(x.like(y) > x, y, x)


def smallest(x: Number, y) -> Number:
    """The smaller of two; x where they do not compare."""
    return choose(x.like(y) < x, y, x)


def fma(a: Number, b, c) -> Number:
    """a * b + c with one rounding: a * b + c may be contracted to it, this is always."""
    return Number(a.builder, a.builder.fma(a.value, a.like(b).value, a.like(c).value))


def absolute(x: Number) -> Number:
    """|x|"""
    return call(x, "llvm.fabs")


def copy_sign(size: float, x: Number) -> Number:
    """The size with the sign of x."""
    return call(x.like(size), "llvm.copysign", x)


def call(x: Number, name: str, *others: Number) -> Number:
    """One of LLVM's own functions of numbers of x's type."""
    function = x.builder.module.declare_intrinsic(name, [x.value.type], _function_type(x, 1 + len(others)))
    return Number(x.builder, x.builder.call(function, [x.value, *(other.value for other in others)]))


def library_call(x: Number, name: str) -> Number:
    """One of the C library's functions of a float64."""
    function = cgutils.insert_pure_function(x.builder.module, _function_type(x, 1), name)
    return Number(x.builder, x.builder.call(function, [x.value]))


def _function_type(x, count):
    return ir.FunctionType(x.value.type, [x.value.type] * count)
