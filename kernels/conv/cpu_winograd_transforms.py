"""The combinations that F(4x4, 3x3) and F(4x4, 2x2) make of patches, kernels and sums, a vector of channels at a time.

A polynomial of degree 5 is known by its values at 0, +-a, +-b and its leading coefficient. With a^2 = 1/2, b^2 = 2 the
factors lie close to each other, and so do the rounding errors (B. Barabasz et al., "Error analysis and improving the
accuracy of Winograd convolution for deep neural networks", 2018, on the choice of points): a third of those with the
points 0, +-1, +-2. Of a line, or a column, each of which is transformed in its turn:

    patches     6 -> 6   B^T d = d0 - 5/2 d2 + d4, (d4 - 2 d2) +- a (d3 - 2 d1), (d4 - d2 / 2) +- b (d3 - d1 / 2),
                         d1 - 5/2 d3 + d5
    kernels     3 -> 6   G g   = g0, -2/3 (g0 + g2 / 2 +- a g1), 1/6 (g0 + 2 g2 +- b g1), g2
    results     6 -> 4   A^T m = m0 + p + q, a r + b s, p / 2 + 2 q, a r / 2 + 2 b s + m5
                         with p, r = m1 +- m2 and q, s = m3 +- m4
    gradients   4 -> 6   A z   of the results, for the gradient of a kernel
    sums        6 -> 3   G^T m, which is that gradient

F(4x4, 2x2) does with a polynomial of degree 4, here known by its values at +-c, +-e and its leading coefficient: c and
e were searched for the least rounding errors, which are those of the above.

    patches     5 -> 5   (d3 - e^2 d1) +- c (d2 - e^2 d0), (d3 - c^2 d1) +- e (d2 - c^2 d0),
                         d4 - (c^2 + e^2) d2 + c^2 e^2 d0
    kernels     2 -> 5   c' (c g1 +- g0), e' (e g1 +- g0), g1, with c' = 1 / (2 c (c^2 - e^2)), e' = -c c' / e
    results     5 -> 4   p + q, c r + e s, c^2 p + e^2 q, c^3 r + e^3 s + m4 with p, r = m0 +- m1 and q, s = m2 +- m3
    gradients   4 -> 5   (z0 + c^2 z2) +- c (z1 + c^2 z3), (z0 + e^2 z2) +- e (z1 + e^2 z3), z3
    sums        5 -> 2   c' r + e' s, c c' p + e e' q + m4
"""

import math

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..cpu_product import REGISTER_BYTES
from ..cpu_vectors import data_of, everywhere, load, store

POINTS = 36  # combinations of a patch
SHORT_POINTS = 25  # and of one for a kernel of 2x2
_A, _B = math.sqrt(0.5), math.sqrt(2)
_C, _E = 0.375, 1.3
_SHORT_FACTORS = [1 / (2 * point * (point**2 - other**2)) for point, other in ((_C, _E), (_E, _C))]


class _Vectors:
    """Whole vectors in flat arrays, and arithmetic with them."""

    def __init__(self, context, builder, signature, arguments, arrays):
        self.builder = builder
        self.pointers = dict(zip(arrays, data_of(context, builder, signature, arguments, *arrays)))
        element = signature.args[arrays[0]].dtype
        self.lanes = REGISTER_BYTES // (4 if element == types.float32 else 8)
        self.vector = ir.VectorType(context.get_data_type(element), self.lanes)

    def _at(self, array, start, steps):
        for step, count in steps:
            start = self.builder.add(start, self.builder.mul(step, ir.Constant(step.type, count)))
        return self.pointers[array], start

    def load(self, array, start, *steps):
        """The vector at start + the sum of step * count."""
        return load(self.builder, self.vector, *self._at(array, start, steps))

    def store(self, value, array, start, *steps):
        store(self.builder, value, *self._at(array, start, steps))

    def plus(self, a, b):
        return self.builder.fadd(a, b, flags=("contract",))

    def minus(self, a, b):
        return self.builder.fsub(a, b, flags=("contract",))

    def times(self, factor, value):
        factor = ir.Constant(self.vector, [ir.Constant(self.vector.element, factor)] * self.lanes)
        return self.builder.fmul(factor, value, flags=("contract",))

    def both(self, a, b):
        """a + b and a - b."""
        return self.plus(a, b), self.minus(a, b)

    def twice(self, transform, lines):
        """`transform` of each column of [line][column], then of each line that this leaves."""
        columns = [transform(self, column) for column in zip(*lines)]
        return [transform(self, line) for line in zip(*columns)]


def _of_patches(v, d):
    return (
        v.plus(v.minus(d[0], v.times(2.5, d[2])), d[4]),
        *v.both(v.minus(d[4], v.times(2, d[2])), v.times(_A, v.minus(d[3], v.times(2, d[1])))),
        *v.both(v.minus(d[4], v.times(0.5, d[2])), v.times(_B, v.minus(d[3], v.times(0.5, d[1])))),
        v.plus(v.minus(d[1], v.times(2.5, d[3])), d[5]),
    )


def _of_kernels(v, g):
    return (
        g[0],
        *v.both(v.times(-2 / 3, v.plus(g[0], v.times(0.5, g[2]))), v.times(-2 / 3 * _A, g[1])),
        *v.both(v.times(1 / 6, v.plus(g[0], v.times(2, g[2]))), v.times(1 / 6 * _B, g[1])),
        g[2],
    )


def _of_results(v, m):
    (p, r), (q, s) = v.both(m[1], m[2]), v.both(m[3], m[4])
    return (
        v.plus(v.plus(m[0], p), q),
        v.plus(v.times(_A, r), v.times(_B, s)),
        v.plus(v.times(0.5, p), v.times(2, q)),
        v.plus(v.plus(v.times(0.5 * _A, r), v.times(2 * _B, s)), m[5]),
    )


def _of_gradients(v, z):
    return (
        z[0],
        *v.both(v.plus(z[0], v.times(0.5, z[2])), v.times(_A, v.plus(z[1], v.times(0.5, z[3])))),
        *v.both(v.plus(z[0], v.times(2, z[2])), v.times(_B, v.plus(z[1], v.times(2, z[3])))),
        z[3],
    )


def _of_sums(v, m):
    (p, r), (q, s) = v.both(m[1], m[2]), v.both(m[3], m[4])
    return (
        v.plus(v.plus(m[0], v.times(-2 / 3, p)), v.times(1 / 6, q)),
        v.plus(v.times(-2 / 3 * _A, r), v.times(1 / 6 * _B, s)),
        v.plus(v.plus(v.times(-1 / 3, p), v.times(1 / 3, q)), m[5]),
    )


def _of_short_patches(v, d):
    return (
        *v.both(v.minus(d[3], v.times(_E**2, d[1])), v.times(_C, v.minus(d[2], v.times(_E**2, d[0])))),
        *v.both(v.minus(d[3], v.times(_C**2, d[1])), v.times(_E, v.minus(d[2], v.times(_C**2, d[0])))),
        v.plus(v.minus(d[4], v.times(_C**2 + _E**2, d[2])), v.times(_C**2 * _E**2, d[0])),
    )


def _of_short_kernels(v, g):
    c, e = _SHORT_FACTORS
    return (
        *v.both(v.times(c * _C, g[1]), v.times(c, g[0])),
        *v.both(v.times(e * _E, g[1]), v.times(e, g[0])),
        g[1],
    )


def _of_short_results(v, m):
    (p, r), (q, s) = v.both(m[0], m[1]), v.both(m[2], m[3])
    return (
        v.plus(p, q),
        v.plus(v.times(_C, r), v.times(_E, s)),
        v.plus(v.times(_C**2, p), v.times(_E**2, q)),
        v.plus(v.plus(v.times(_C**3, r), v.times(_E**3, s)), m[4]),
    )


def _of_short_gradients(v, z):
    return (
        *v.both(v.plus(z[0], v.times(_C**2, z[2])), v.times(_C, v.plus(z[1], v.times(_C**2, z[3])))),
        *v.both(v.plus(z[0], v.times(_E**2, z[2])), v.times(_E, v.plus(z[1], v.times(_E**2, z[3])))),
        z[3],
    )


def _of_short_sums(v, m):
    c, e = _SHORT_FACTORS
    (p, r), (q, s) = v.both(m[0], m[1]), v.both(m[2], m[3])
    return v.plus(v.times(c, r), v.times(e, s)), v.plus(v.plus(v.times(c * _C, p), v.times(e * _E, q)), m[4])


def _transformer(transform, size):
    """A function that transforms a square of size x size vectors into another, line by line."""

    @intrinsic
    def run(typing_context, source, start, line_step, step, target, to, target_step):
        """source[start + line * line_step + place * step] -> target[to + number * target_step], whole vectors."""

        def generate(context, builder, signature, arguments):
            _, start, line_step, step, _, to, target_step = arguments
            vectors = _Vectors(context, builder, signature, arguments, (0, 4))
            square = [
                [vectors.load(0, start, (line_step, line), (step, place)) for place in range(size)]
                for line in range(size)
            ]
            results = [value for line in vectors.twice(transform, square) for value in line]
            for number, value in enumerate(results):
                vectors.store(value, 4, to, (target_step, number))
            return context.get_dummy_value()

        integer = types.intp
        return types.void(source, integer, integer, integer, target, integer, integer), generate

    return run


combine_patch = _transformer(_of_patches, 6)
combine_kernel = _transformer(_of_kernels, 3)
combine_gradient = _transformer(_of_gradients, 4)
gradient_of_kernel = _transformer(_of_sums, 6)
combine_short_patch = _transformer(_of_short_patches, 5)
combine_short_kernel = _transformer(_of_short_kernels, 2)
combine_short_gradient = _transformer(_of_short_gradients, 4)
gradient_of_short_kernel = _transformer(_of_short_sums, 5)


def _results(transform, size):
    """A function that makes 4x4 results of sums."""

    @intrinsic
    def results_of(typing_context, sums, start, point_step, bias, channel, relu, target, to, line_step, step):
        """target[to + line * line_step + place * step] = the results of the sums at start + point * point_step, plus
        bias[channel ...], through relu or not."""

        def generate(context, builder, signature, arguments):
            _, start, point_step, _, channel, relu, _, to, line_step, step = arguments
            v = _Vectors(context, builder, signature, arguments, (0, 3, 6))
            square = [
                [v.load(0, start, (point_step, size * line + place)) for place in range(size)] for line in range(size)
            ]
            biases, zero = v.load(3, channel), ir.Constant(v.vector, None)
            cut = everywhere(builder, relu, v.lanes)
            for line, values in enumerate(v.twice(transform, square)):
                for place, value in enumerate(values):
                    value = v.plus(value, biases)
                    negative = builder.and_(builder.fcmp_ordered("<", value, zero), cut)
                    value = builder.select(negative, zero, value)  # a NaN stays one
                    v.store(value, 6, to, (line_step, line), (step, place))
            return context.get_dummy_value()

        integer = types.intp
        return types.void(
            sums, integer, integer, bias, integer, types.boolean, target, integer, integer, integer
        ), generate  # fmt: skip

    return results_of


results_of = _results(_of_results, 6)
short_results_of = _results(_of_short_results, 5)
