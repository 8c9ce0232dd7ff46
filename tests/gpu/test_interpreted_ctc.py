"""CTC's Numba-CUDA kernels in Numba's simulator, beyond the operation's samples: more states and classes than threads,
repeated labels, lengths of zero, integers of every type, infinities and NaN; and what the simulator sees."""

import os
import threading

import numpy as np
import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs with TRITON_INTERPRET=1, in a process of its own", allow_module_level=True)

import interpreter
from agreement import agree
from numba import cuda, float64

from ranvier.kernels.launch import launch
from ranvier.kernels.launch_numba import NumbaKernel
from ranvier.kernels.loss import ctc_loss, gpu_ctc

interpreter.install()


def sequences(times, classes, input_lengths, target_lengths, *, padding=None, blank=0, dtype="f4", seed=0):
    """Inputs: log-probabilities of a softmax and labels drawn evenly, so that many repeat."""
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((times, len(input_lengths), classes))
    log_probs = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    shape = sum(target_lengths) if padding is None else (len(input_lengths), padding)
    labels = rng.integers(0, classes - 1, shape)
    lengths = [np.array(lengths, np.int64) for lengths in (input_lengths, target_lengths)]
    return [log_probs.astype(dtype), labels + (labels >= blank), *lengths]


def both_passes(inputs, grad_output=None, implementation="gpu", **attributes):
    output, saved = ctc_loss.forward(*inputs, implementation=implementation, **attributes)
    grad_output = np.ones(output.shape, output.dtype) if grad_output is None else grad_output
    return output, ctc_loss.backward(saved, grad_output, (True, False, False, False), implementation)[0]


@pytest.mark.parametrize("padding", [None, 45])
def test_more_states_and_classes_than_threads(padding, monkeypatch):
    monkeypatch.setattr(gpu_ctc, "_MOST_WARPS", 1)
    monkeypatch.setattr(gpu_ctc, "_MOST_SUMMING_WARPS", 1)
    inputs = sequences(70, 75, [70, 3], [40, 2], padding=padding, blank=74)
    agree(ctc_loss, inputs, {"blank": 74}, np.random.default_rng(1), "float32", implementation="gpu")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_labels_that_repeat_add_up(dtype):
    inputs = sequences(30, 3, [30, 29], [12, 11], blank=1, dtype=dtype)
    agree(ctc_loss, inputs, {"blank": 1, "reduction": "none"}, np.random.default_rng(1), dtype, implementation="gpu")


@pytest.mark.parametrize("integer", [np.int8, np.int16, np.int32, np.uint8])
def test_labels_and_lengths_of_every_integer_type(integer):
    inputs = sequences(9, 5, [9, 0, 5, 0], [3, 0, 0, 2], padding=3)
    inputs[1:] = [x.astype(integer) for x in inputs[1:]]
    agree(ctc_loss, inputs, {"zero_infinity": True}, np.random.default_rng(1), "float32", implementation="gpu")


@pytest.mark.parametrize("zero_infinity", [False, True])
def test_impossible_sequences_leave_the_others_alone(zero_infinity):
    inputs = sequences(6, 4, [6, 2, 6], [2, 5, 3], padding=5)
    attributes = {"zero_infinity": zero_infinity, "reduction": "none"}
    agree(ctc_loss, inputs, attributes, np.random.default_rng(1), "float32", implementation="gpu")
    loss, grad = both_passes(inputs, **attributes)
    assert loss[1] == (0 if zero_infinity else np.inf)
    assert np.isfinite(loss[[0, 2]]).all()
    assert np.isfinite(grad[:, [0, 2]]).all()
    expected = np.zeros((6, 4)) if zero_infinity else np.repeat([np.nan, 0], (2, 4))[:, None] * np.ones(4)
    np.testing.assert_array_equal(grad[:, 1], expected)


def test_a_nan_spoils_its_own_sequence_only():
    inputs = sequences(5, 4, [5, 5], [2, 2], padding=2)
    inputs[0][3, 0] = np.nan
    loss, grad = both_passes(inputs, reduction="none")
    assert np.isnan(loss).tolist() == [True, False]
    assert np.isnan(grad[:, 0]).any()
    assert np.isfinite(grad[:, 1]).all()


def test_hundreds_of_times_keep_their_digits():
    inputs = sequences(150, 4, [150], [20], padding=20)
    exact_loss, exact_grad = both_passes([inputs[0].astype("f8"), *inputs[1:]], implementation="reference")
    loss, grad = both_passes(inputs)
    np.testing.assert_allclose(loss, exact_loss, rtol=1e-6)
    np.testing.assert_allclose(grad, exact_grad, rtol=2e-4, atol=1e-7)


def test_backward_again_and_with_another_gradient():
    inputs = sequences(7, 4, [7, 5], [2, 3], padding=3)
    _, saved = ctc_loss.forward(*inputs, implementation="gpu", reduction="sum")
    needs = (True, False, False, False)
    first, again, twice = (ctc_loss.backward(saved, np.array(g, "f4"), needs, "gpu")[0] for g in (1.0, 1.0, 2.0))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(2 * first, twice)


# ---- what the simulator sees


@NumbaKernel
def halved_kernel(x, y, size):
    sums = cuda.shared.array(0, float64)
    thread = cuda.threadIdx.x
    sums[thread] = x[cuda.blockIdx.x * cuda.blockDim.x + thread]
    cuda.syncthreads()
    half = cuda.blockDim.x // 2
    while half > 0:
        if thread < half:
            sums[thread] += sums[thread + half]
        cuda.syncthreads()
        half //= 2
    if thread == 0:
        y[cuda.blockIdx.x] = sums[0]


@NumbaKernel
def astray_kernel(x, y, size):
    y[cuda.threadIdx.x + size] = x[0]


@NumbaKernel
def lone_barrier_kernel(x, y, size):
    if cuda.threadIdx.x < size:
        cuda.syncthreads()
    elif x[0] > 0:
        y[len(y)] = 0.0


def test_shared_memory_and_barriers_are_simulated():
    x, y = np.arange(128.0), np.zeros(2)
    launch(halved_kernel, (2,), x, y, x.size, num_warps=2, shared_bytes=8 * 64)
    np.testing.assert_array_equal(y, x.reshape(2, 64).sum(axis=1))


@pytest.mark.parametrize("kernel", [astray_kernel, lone_barrier_kernel])
def test_an_index_out_of_an_array_is_an_error(kernel):
    before = threading.active_count()
    with pytest.raises(IndexError, match="out of bounds"):
        launch(kernel, (1,), np.ones(4), np.zeros(4), 4, num_warps=1)
    assert threading.active_count() == before


def test_arrays_of_several_axes_are_refused_as_pointers_have_none():
    with pytest.raises(AssertionError):
        launch(halved_kernel, (1,), np.ones((4, 32)), np.zeros(1), 128, num_warps=1, shared_bytes=256)
