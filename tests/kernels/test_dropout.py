"""Philox against its authors' known answers and Triton's generator, and the statistics of the masks."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
from numba import njit

from ranvier.kernels import cpu_philox, dropout, philox
from ranvier.kernels.operation import Operation

OPERATIONS = ["dropout", "alpha_dropout", "channel_dropout", "feature_alpha_dropout"]
SEEDS = [0, 1, 0x1234_5678_9ABC_DEF0, 2**63 - 1]
OFFSETS = np.concatenate([np.arange(1000), 2**31 - 2 + np.arange(4), 2**32 - 2 + np.arange(4), [2**40 + 12345]])


@njit
def _uniforms(seed, offsets, result):
    for i in range(offsets.size):
        result[i] = cpu_philox.uniform(seed, offsets[i])


# Random123 1.14.0, tests/kat_vectors, the lines "philox4x32 10".
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_its_authors_known_answers(counter, key, expected):
    words = philox.philox_4x32([int(w, 16) for w in counter.split()], [int(w, 16) for w in key.split()])
    assert " ".join(f"{int(word):08x}" for word in words) == expected


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("first", [0, 5, 2**31 - 40, 2**32 - 40, 2**40])
@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 100])
def test_draws_in_a_row_are_those_one_by_one(seed, first, count):
    draws, expected = np.full(count + 1, -1, np.float32), np.empty(count, np.float32)
    cpu_philox.fill_uniform(seed, first, draws[:count])
    _uniforms(seed, first + np.arange(count), expected)
    np.testing.assert_array_equal(draws[:count], expected)
    assert draws[count] == -1


@pytest.mark.parametrize("seed", SEEDS)
def test_cpu_generator_gives_the_reference_bits(seed):
    result = np.empty(OFFSETS.size, np.float32)
    _uniforms(np.int64(seed), OFFSETS, result)
    np.testing.assert_array_equal(result, philox.uniform(seed, OFFSETS))


def test_uniform_covers_zero_to_one_and_never_reaches_it():
    u = philox.uniform(7, np.arange(200_000))
    assert u.dtype == np.float32
    assert u.min() >= 0
    assert u.max() < 1
    assert np.float32(2**31 - 1) * np.float32(philox.UNIFORM_SCALE) < 1
    counts = np.histogram(u, bins=50, range=(0, 1))[0]
    np.testing.assert_allclose(counts, 4000, atol=5 * np.sqrt(4000))
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 5 / np.sqrt(u.size)


# Stand-in for a tensor that lets Triton's interpreter read and write a NumPy array.
_TRITON = """
import os, sys
import numpy as np
import triton
import triton.language as tl

class Pointer:
    def __init__(self, array):
        self.array, self.dtype = array, array.dtype
    def data_ptr(self):
        return self.array.ctypes.data
    def cpu(self):
        return self
    untyped_storage = cpu
    def copy_(self, other):
        pass
    def storage_offset(self):
        return 0
    def size(self):
        return self.array.shape
    def stride(self):
        return (1,)
    def element_size(self):
        return self.array.itemsize
    def new_empty(self, *arguments, **keywords):
        return Pointer(np.empty(0, self.dtype))
    def set_(self, storage, offset, size, stride):
        self.array, self.dtype = storage.array, storage.dtype
    @property
    def shape(self):
        return self.array.shape

@triton.jit
def kernel(offsets, result, seed, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    offset = tl.load(offsets + i, mask=i < n, other=0)
    tl.store(result + i, tl.rand(seed, offset), mask=i < n)

offsets, seeds = np.load(sys.argv[1]), [int(seed) for seed in sys.argv[3:]]
results = np.zeros((len(seeds), offsets.size), np.float32)
for seed, result in zip(seeds, results):
    kernel[(1,)](Pointer(offsets), Pointer(result), seed, offsets.size, BLOCK=2048)
np.save(sys.argv[2], results)
"""


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_uniform_is_what_triton_draws(tmp_path, dtype):
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    offsets = OFFSETS[OFFSETS < 2**31].astype(dtype) if dtype == np.int32 else OFFSETS
    (tmp_path / "program.py").write_text(_TRITON)
    np.save(tmp_path / "offsets.npy", offsets)
    subprocess.run(
        [sys.executable, "program.py", "offsets.npy", "results.npy", *map(str, SEEDS)],
        cwd=tmp_path,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        check=True,
    )
    for seed, result in zip(SEEDS, np.load(tmp_path / "results.npy"), strict=True):
        np.testing.assert_array_equal(result, philox.uniform(seed, offsets))


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_rate_lies_within_four_sigma(name, p):
    operation = Operation.registry[name]
    x = np.ones((200, 500), np.float32)
    _, saved = operation.forward(x, p=p, seed=11)
    (grad,) = operation.backward(saved, x, (True,))
    assert abs((grad != 0).mean() - (1 - p)) <= 4 * np.sqrt(p * (1 - p) / x.size)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("shape", [(64, 33), (8, 16, 5, 3)])
def test_backward_has_the_mask_of_forward(name, shape):
    operation = Operation.registry[name]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    y, saved = operation.forward(x, p=0.4, seed=5)
    (grad,) = operation.backward(saved, np.ones_like(x), (True,))
    kept = grad != 0
    affine = (dropout.alpha_affine if "alpha" in name else dropout.plain_affine)(0.4)
    np.testing.assert_allclose(y, np.where(kept, affine.scale * x + affine.shift, affine.dropped), rtol=1e-5, atol=1e-6)
    if name in ("channel_dropout", "feature_alpha_dropout"):
        whole = kept.reshape(shape[0] * shape[1], -1)
        assert (whole.all(axis=1) | ~whole.any(axis=1)).all()


@pytest.mark.parametrize("name", ["dropout", "alpha_dropout"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 4096, 4097, 3 * 4096 - 1, 40000])
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_the_mask_is_kept_as_one_bit_an_element(name, dtype, size, p):
    operation, seed = Operation.registry[name], 2**40 + 7
    x = np.full(size, 2.0, dtype)
    y, saved = operation.forward(x, p=p, seed=seed)
    (grad,) = operation.backward(saved, x, (True,))
    affine = (dropout.alpha_affine if "alpha" in name else dropout.plain_affine)(p)
    kept = philox.uniform(seed, np.arange(size)) >= np.float32(p)
    np.testing.assert_allclose(y, np.where(kept, 2 * affine.scale + affine.shift, affine.dropped), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(grad, np.where(kept, dtype(2) * dtype(affine.scale), dtype(0)))
    assert sum(part.nbytes for part in saved if isinstance(part, np.ndarray)) == 2 * -(-size // 16)


@pytest.mark.parametrize("name", OPERATIONS)
def test_same_seed_same_bits_and_another_seed_another_mask(name):
    operation = Operation.registry[name]
    x = np.ones((31, 17), np.float32)
    first, again, other = (operation.forward(x, p=0.5, seed=seed)[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_alpha_dropout_keeps_mean_and_variance():
    x = np.random.default_rng(1).standard_normal(400_000).astype(np.float32)
    y, _ = dropout.alpha_dropout.forward(x, p=0.3, seed=2)
    assert abs(y.mean()) < 0.01
    assert abs(y.var() - 1) < 0.02


@pytest.mark.parametrize("name", ["dropout", "alpha_dropout"])
def test_scalars_stay_scalars(name):
    y, saved = Operation.registry[name].forward(np.array(2.0), p=0.5, seed=1)
    assert y.shape == ()
    assert Operation.registry[name].backward(saved, np.array(1.0), (True,))[0].shape == ()


@pytest.mark.parametrize("name", OPERATIONS)
def test_out_is_written_also_where_it_is_strided(name):
    x = np.random.default_rng(1).standard_normal((6, 10)).astype(np.float32)
    expected, _ = Operation.registry[name].forward(x, p=0.5, seed=1)
    for out in (np.empty((6, 10), np.float32), np.empty((6, 20), np.float32)[:, ::2]):
        y, _ = Operation.registry[name].forward(x, p=0.5, seed=1, out=out)
        assert y is out
        np.testing.assert_array_equal(out, expected)
