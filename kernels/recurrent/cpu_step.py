"""One step of a batch on NumPy arrays: whole products, whose weights nobody uses again, and the gates between them."""

import numpy as np
from numba import prange

from ..cpu_jit import kernel
from ..cpu_math import tanh
from ..cpu_matmul import matmul
from ..memory import empty, zeros
from .cpu_gru import gru_gates, gru_grad_gates
from .cpu_lstm import lstm_gates, lstm_grad_gates
from .cpu_time import add, add_two, copy
from .cpu_walk import bias_gradient, bias_sum, gru_bias_sums, initial_state, weight_gradient, weight_gradients

_WORTH_THREADS = 1 << 13  # units of the batch; fewer are done before another thread has woken up


@kernel
def rnn_step_kernel(products, relu, h):
    """h = tanh or relu of (h + products); h: [N, H], sums; products: [N, H], or no rows where there is no state."""
    for i in prange(h.shape[0]):
        state = h[i]
        if products.shape[0] > 0:
            add(products[i], state)
        if relu:
            for j in range(state.shape[0]):
                state[j] = state[j] if not state[j] <= 0 else state.dtype.type(0)
        else:
            for j in range(state.shape[0]):
                state[j] = tanh(state[j])


@kernel
def rnn_step_grad_kernel(h, grad_h, relu, grad_sums):
    """grad_sums = grad_h times the derivative at h; all [N, H]."""
    for i in prange(h.shape[0]):
        state, grad, grad_sum = h[i], grad_h[i], grad_sums[i]
        if relu:
            for j in range(state.shape[0]):
                grad_sum[j] = grad[j] if state[j] > 0 else grad.dtype.type(0)
        else:
            for j in range(state.shape[0]):
                grad_sum[j] = grad[j] * (grad.dtype.type(1) - state[j] * state[j])


@kernel
def lstm_step_kernel(products, gates, c, h):
    """From gates [N, 4H], W_ih x + bias, and products [N, 4H], W_hh h (no rows where there is no state): i, f, g, o to
    gates; c: [N, H], before, then after; h: [N, H], written."""
    for i in prange(h.shape[0]):
        if products.shape[0] > 0:
            add(products[i], gates[i])
        lstm_gates(gates[i], c[i], h[i])


@kernel
def lstm_step_grad_kernel(gates, c, c0, grad_h, grad_c, grad_gates):
    """grad_gates [N, 4H] of the sums; grad_c [N, H], of c', becomes that of c0."""
    for i in prange(c.shape[0]):
        lstm_grad_gates(gates[i], c[i], c0[i], grad_h[i], grad_c[i], grad_gates[i])


@kernel
def gru_step_kernel(products, bias_new, gates, hidden_new, h):
    """From gates [N, 3H], W_ih x + bias, and products [N, 3H], W_hh h (no rows where there is no state): r, z, n to
    gates; hidden_new: [N, H], W_n h + bias_new, written; h: [N, H], before, then after."""
    size = h.shape[1]
    for i in prange(h.shape[0]):
        if products.shape[0] > 0:
            add(products[i], gates[i][: 2 * size])
            add_two(products[i][2 * size :], bias_new, hidden_new[i])
        else:
            copy(bias_new, hidden_new[i])
        gru_gates(gates[i], hidden_new[i], h[i])


@kernel
def gru_step_grad_kernel(gates, hidden_new, h0, grad_h, grad_gates, grad_products):
    """grad_gates and grad_products [N, 3H], of W_ih x and of W_hh h; grad_h [N, H], of h', becomes what the gates hand
    on to h0."""
    size = h0.shape[1]
    for i in prange(h0.shape[0]):
        gru_grad_gates(gates[i], hidden_new[i], h0[i], grad_h[i], grad_gates[i])
        copy(grad_gates[i], grad_products[i])
        grad_n, gate_r = grad_products[i][2 * size :], gates[i]
        for j in range(size):
            grad_n[j] *= gate_r[j]


def _run(step_kernel, units):
    return step_kernel if units.size > _WORTH_THREADS else step_kernel.serial


def _multiply(x, weight, bias=None):
    """x weight^T + bias."""
    return matmul(x, weight.T, empty((x.shape[0], weight.shape[0]), x.dtype), bias)


def _multiply_state(h0, weight_hh):
    return empty((0, weight_hh.shape[0]), weight_hh.dtype) if h0 is None else _multiply(h0, weight_hh)


def _multiply_back(grad, weight):
    return matmul(grad, weight, empty((grad.shape[0], weight.shape[1]), grad.dtype))


def _gradients(needs, x, weight_ih, weight_hh, h0, grad_sums):
    """Gradients of x, of the weights and biases, and of h0, where the gates add what both weights make."""
    before = zeros((x.shape[0], weight_hh.shape[1]), x.dtype) if h0 is None and needs[2] else h0
    return (
        _multiply_back(grad_sums, weight_ih) if needs[0] else None,
        *weight_gradients(needs, grad_sums, grad_sums.shape[1], x, before),
        _multiply_back(grad_sums, weight_hh) if needs[5] else None,
    )


def _for(needs, *grads):
    """The gradients that were asked for."""
    return tuple(grad if need else None for grad, need in zip(grads, needs))


def rnn_step_forward(x, weight_ih, weight_hh, bias_ih, bias_hh, h0, *, nonlinearity):
    relu = nonlinearity == "relu"
    h = _multiply(x, weight_ih, bias_sum(len(weight_ih), x.dtype, bias_ih, bias_hh))
    _run(rnn_step_kernel, h)(_multiply_state(h0, weight_hh), relu, h)
    return (h,), (x, weight_ih, weight_hh, h0, relu, h)


def rnn_step_backward(saved, grads, needs):
    x, weight_ih, weight_hh, h0, relu, h = saved
    grad_sums = empty(h.shape, h.dtype)
    _run(rnn_step_grad_kernel, h)(h, np.ascontiguousarray(grads[0]), relu, grad_sums)
    return _for(needs, *_gradients(needs, x, weight_ih, weight_hh, h0, grad_sums))


def lstm_step_forward(x, weight_ih, weight_hh, bias_ih, bias_hh, h0, c0):
    batch, size = len(x), weight_hh.shape[1]
    gates = _multiply(x, weight_ih, bias_sum(4 * size, x.dtype, bias_ih, bias_hh))
    c, h = initial_state(c0, batch, size, x.dtype), empty((batch, size), x.dtype)
    _run(lstm_step_kernel, h)(_multiply_state(h0, weight_hh), gates, c, h)
    return (h, c), (x, weight_ih, weight_hh, h0, c0, gates, c)


def lstm_step_backward(saved, grads, needs):
    x, weight_ih, weight_hh, h0, c0, gates, c = saved
    grad_h, grad_c = (initial_state(grad, *c.shape, c.dtype) for grad in grads)
    grad_gates = empty(gates.shape, gates.dtype)
    before = initial_state(c0, *c.shape, c.dtype)
    _run(lstm_step_grad_kernel, c)(gates, c, before, grad_h, grad_c, grad_gates)
    return _for(needs, *_gradients(needs, x, weight_ih, weight_hh, h0, grad_gates), grad_c)


def gru_step_forward(x, weight_ih, weight_hh, bias_ih, bias_hh, h0):
    size = weight_hh.shape[1]
    bias, bias_new = gru_bias_sums(size, x.dtype, bias_ih, bias_hh)
    gates, h = _multiply(x, weight_ih, bias), initial_state(h0, len(x), size, x.dtype)
    hidden_new = empty(h.shape, x.dtype)
    _run(gru_step_kernel, h)(_multiply_state(h0, weight_hh), bias_new, gates, hidden_new, h)
    return (h,), (x, weight_ih, weight_hh, h0, gates, hidden_new)


def gru_step_backward(saved, grads, needs):
    x, weight_ih, weight_hh, h0, gates, hidden_new = saved
    before = initial_state(h0, *hidden_new.shape, x.dtype)
    grad_h = initial_state(grads[0], *hidden_new.shape, x.dtype)
    grad_gates, grad_products = (empty(gates.shape, x.dtype) for _ in range(2))
    _run(gru_step_grad_kernel, before)(gates, hidden_new, before, grad_h, grad_gates, grad_products)
    if needs[5]:
        grad_h += _multiply_back(grad_products, weight_hh)
    return _for(
        needs,
        _multiply_back(grad_gates, weight_ih) if needs[0] else None,
        weight_gradient(1, grad_gates, x) if needs[1] else None,
        weight_gradient(2, grad_products, before) if needs[2] else None,
        bias_gradient(grad_gates, 3 * before.shape[1]) if needs[3] else None,
        bias_gradient(grad_products, 3 * before.shape[1]) if needs[4] else None,
        grad_h,
    )
