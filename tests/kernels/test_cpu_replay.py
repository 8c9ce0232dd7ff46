"""Calls of kernels that were written down and are made again at once."""

import numpy as np
import pytest
from numba import prange

from ranvier.kernels import cpu_replay
from ranvier.kernels.cpu_jit import kernel, serial_kernel
from ranvier.kernels.cpu_replay import KernelCall, Program


@serial_kernel
def put_kernel(numbers, flag, single, double, place, target):
    target[place[0], place[1]] = numbers[0] - numbers[1] + single + double + (100 if flag else 0)


@kernel
def double_kernel(x, y):
    for i in prange(x.shape[0]):
        for k in range(x.shape[1]):
            y[i, k] = 2 * x[i, k]


@serial_kernel
def step_kernel(x, negative, length):
    if length < 0:
        raise ValueError("a negative length")
    x[0] += -length if negative else length


@serial_kernel
def refuse_kernel(x):
    if x[0] < 0:
        raise ValueError("a negative number")
    x[0] += 1


@serial_kernel
def ignore_kernel(number):
    pass


@serial_kernel
def first_of(x):
    return x[0]


def test_arguments_of_every_kind_arrive():
    target = np.zeros((2, 3))
    arguments = (np.array([5, 7], np.int16), True, np.float32(0.5), -0.25, (1, 2), target[:, ::-1])
    Program([KernelCall(put_kernel, arguments)])()
    np.testing.assert_array_equal(target, [[0, 0, 0], [98.25, 0, 0]])


def test_calls_are_written_down_and_made_again_in_order():
    x, y, z = np.ones((3, 4), np.float32), np.empty((3, 4), np.float32), np.empty((4, 3), np.float32).T
    calls = []

    def note(kernel, arguments):
        calls.append(KernelCall(kernel, arguments))
        return cpu_replay.call(kernel, arguments)

    with cpu_replay.listening(), cpu_replay.noted_by(note):
        double_kernel(x, y)
        double_kernel.serial(y, z)
    double_kernel(x, x)
    assert [call.kernel for call in calls] == [double_kernel, double_kernel.serial]
    program = Program(calls)
    program()
    np.testing.assert_array_equal(z, np.full((3, 4), 8))


def test_numbers_may_change_between_replays():
    x, y = np.zeros(1, np.float32), np.zeros(1)
    program = Program([KernelCall(step_kernel, (x, False, 1.0)), KernelCall(step_kernel, (y, False, 1.0))])
    program()
    program.change_numbers(1, (True, 5))
    program()
    assert x[0] == 2
    assert y[0] == -4
    program.change_numbers(0, (False, -1.0))
    with pytest.raises(ValueError, match="negative length"):
        program()
    assert y[0] == -4


def test_an_error_is_the_kernels_own_and_ends_the_replay():
    bad, good = np.array([-1.0]), np.array([1.0])
    program = Program([KernelCall(refuse_kernel, (x,)) for x in (good, bad, good)])
    with pytest.raises(ValueError, match="a negative number"):
        program()
    assert good == 2
    bad[0] = 0
    program()
    assert (good, bad) == (4, 1)


def test_what_returns_something_is_not_taken():
    assert cpu_replay.can_replay(refuse_kernel, (np.ones(1),))
    assert not cpu_replay.can_replay(first_of, (np.ones(1),))
    assert not cpu_replay.can_replay(ignore_kernel, (1j,))


CHANGES = {
    "signs": lambda x: np.negative(x, out=x),
    "signs of a pair": lambda x: np.negative(x[2:4], out=x[2:4]),
    "a swap": lambda x: x.__setitem__([1, 6], x[[6, 1]]),
    "exchanged halves": lambda x: x.__setitem__(slice(None), np.roll(x, x.size // 2)),
    "the lowest bit": lambda x: x.view(np.uint8).__setitem__(0, x.view(np.uint8)[0] ^ 1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("size", [8, 9, 64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_a_checksum_changes_with_the_bytes(dtype, size, change):
    x = np.arange(1, size + 1).astype(dtype)
    before = cpu_replay.checksum(x)
    assert cpu_replay.checksum(x.copy()) == before
    change(x)
    assert cpu_replay.checksum(x) != before


def test_no_choice_of_signs_has_the_checksum_of_another():
    signs = 1 - 2.0 * np.array(list(np.ndindex((2,) * 8)))
    assert len({cpu_replay.checksum(row) for row in signs * np.arange(1, 9)}) == len(signs)
