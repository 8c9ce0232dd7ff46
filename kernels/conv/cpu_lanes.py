"""Vectors of which some lanes count, for the intrinsics of CPU kernels."""

import contextlib

from llvmlite import ir
from numba.core import cgutils

from ..cpu_product import REGISTER_BYTES
from ..cpu_vectors import data_of, everywhere, load, load_lanes, multiply_add, store, store_lanes

_INT32 = ir.IntType(32)


class Vectors:
    """Vectors, whole or by lanes, in the flat arrays among an intrinsic's arguments."""

    def __init__(self, context, builder, signature, arguments):
        self.context, self.builder, self.signature, self.arguments = context, builder, signature, arguments
        element = signature.args[0].dtype
        self.bytes = element.bitwidth // 8
        self.lanes = REGISTER_BYTES // self.bytes
        self.vector = ir.VectorType(context.get_data_type(element), self.lanes)
        self.zero, self.true = ir.Constant(self.vector, None), ir.Constant(ir.IntType(1), 1)

    def data(self, *indices):
        """Pointers to the elements of array arguments."""
        return data_of(self.context, self.builder, self.signature, self.arguments, *indices)

    def constant(self, value):
        return ir.Constant(ir.IntType(64), value)

    def add(self, first, *others):
        for other in others:
            first = self.builder.add(first, other)
        return first

    def times(self, value, factor):
        return self.builder.mul(value, ir.Constant(value.type, factor))

    def at(self, pointer, *offsets):
        return self.builder.gep(pointer, [self.add(*offsets)])

    def everywhere(self, value):
        """A vector with one value in every lane."""
        return everywhere(self.builder, value, self.lanes)

    def inside(self, first, width):
        """The lanes whose number, counted from `first`, is one of 0..width - 1."""
        numbers = ir.Constant(ir.VectorType(_INT32, self.lanes), list(range(self.lanes)))
        numbers = self.builder.add(numbers, self.everywhere(self.builder.trunc(first, _INT32)))
        return self.builder.icmp_unsigned("<", numbers, self.everywhere(self.builder.trunc(width, _INT32)))

    def whole(self, pointer):
        """The vector that begins where pointer points."""
        return load(self.builder, self.vector, pointer, self.constant(0))

    def put(self, value, pointer):
        """Writes a whole vector to where pointer points."""
        store(self.builder, value, pointer, self.constant(0))

    def load(self, pointer, mask):
        """The mask's lanes from where pointer points, and zeros; what lies at other lanes is not touched."""
        return load_lanes(self.builder, self.vector, pointer, mask)

    def store(self, value, pointer, mask):
        """The mask's lanes to where pointer points; what lies at other lanes is not touched."""
        store_lanes(self.builder, value, pointer, mask)

    def plus(self, total, a, b):
        """total + a b"""
        return multiply_add(self.builder, a, b, total)

    def rows(self, array, zeros, base, pitch, first, step, height, count):
        """Where rows first, first + step, ... of an array start; those outside 0..height - 1 are the line of zeros."""
        pointers = []
        for i in range(count):
            row = self.add(first, self.times(step, i))
            there = self.at(array, base, self.builder.mul(row, pitch))
            pointers.append(self.builder.select(self.builder.icmp_unsigned("<", row, height), there, zeros))
        return pointers

    def entries(self, index):
        """How many columns a kernel's table has, which is argument `index`."""
        table = self.context.make_array(self.signature.args[index])(self.context, self.builder, self.arguments[index])
        return self.builder.udiv(table.nitems, self.constant(4))

    def entry(self, table, index):
        """offset, width, shift and tap of a kernel's column."""
        first = self.times(index, 4)
        return [self.builder.load(self.at(table, first, self.constant(field))) for field in range(4)]

    @contextlib.contextmanager
    def pairs(self, width):
        """A loop over a line of `width`, two vectors at a time; gives their first column, and half of it."""
        step = self.constant(2 * self.lanes)
        with cgutils.for_range_slice(self.builder, self.constant(0), width, step) as (column, _):
            yield column, self.builder.lshr(column, self.constant(1))

    def chosen(self, a, b, order):
        """Elements of two vectors that follow each other, by their numbers."""
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INT32, self.lanes), order))
