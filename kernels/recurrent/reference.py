"""Recurrent layers, one sequence and one time step after the other, as a textbook writes them. Every other
implementation is held against these, in float64."""

import numpy as np


def _sigmoid(z):
    return 1 / (1 + np.exp(-z))


def _times(x, lengths, n, reverse):
    """The time steps of sequence n in the order in which the layer walks them."""
    times = range(x.shape[0] if lengths is None else lengths[n])
    return reversed(times) if reverse else times


def _state(given, batch, size, dtype):
    return np.zeros((batch, size), dtype) if given is None else given.copy()


def _affine(weight, bias, vector):
    return weight @ vector if bias is None else weight @ vector + bias


class _Gradients:
    """Zeros to add to, one array an input; handed over for the inputs that need one."""

    def __init__(self, **inputs):
        self.names = list(inputs)
        for name, value in inputs.items():
            is_float = isinstance(value, np.ndarray) and value.dtype.kind == "f"
            setattr(self, name, np.zeros_like(value) if is_float else None)

    def affine(self, which, gradient, vector, rows=slice(None)):
        """Adds what `W vector + b` hands back to rows of weight_<which> and bias_<which>."""
        getattr(self, f"weight_{which}")[rows] += np.outer(gradient, vector)
        if getattr(self, f"bias_{which}") is not None:
            getattr(self, f"bias_{which}")[rows] += gradient

    def needed(self, needs):
        return tuple(getattr(self, name) if need else None for name, need in zip(self.names, needs))


def rnn_forward(
    x, weight_ih, weight_hh, bias_ih=None, bias_hh=None, h0=None, lengths=None, *, nonlinearity="tanh", reverse=False
):
    steps, batch, _ = x.shape
    h_n = _state(h0, batch, weight_hh.shape[1], x.dtype)
    output = np.zeros((steps, batch, weight_hh.shape[1]), x.dtype)
    tape = []
    for n in range(batch):
        for t in _times(x, lengths, n, reverse):
            before = h_n[n].copy()
            z = _affine(weight_ih, bias_ih, x[t, n]) + _affine(weight_hh, bias_hh, before)
            h_n[n] = np.tanh(z) if nonlinearity == "tanh" else np.maximum(z, 0)
            derivative = 1 - h_n[n] ** 2 if nonlinearity == "tanh" else (z > 0).astype(z.dtype)
            output[t, n] = h_n[n]
            tape.append((t, n, before, derivative))
    inputs = {"x": x, "weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias_ih, "bias_hh": bias_hh}
    return (output, h_n), (inputs | {"h0": h0, "lengths": lengths}, tape)


def rnn_backward(saved, grads, needs):
    inputs, tape = saved
    x, weight_ih, weight_hh = inputs["x"], inputs["weight_ih"], inputs["weight_hh"]
    grad_output, grad_h_n = grads
    grad = _Gradients(**inputs)
    grad_h = _state(grad_h_n, x.shape[1], weight_hh.shape[1], x.dtype)
    for t, n, before, derivative in reversed(tape):
        if grad_output is not None:
            grad_h[n] += grad_output[t, n]
        grad_z = grad_h[n] * derivative
        grad.affine("ih", grad_z, x[t, n])
        grad.affine("hh", grad_z, before)
        grad.x[t, n] = weight_ih.T @ grad_z
        grad_h[n] = weight_hh.T @ grad_z
    grad.h0 = grad_h
    return grad.needed(needs)


def lstm_forward(
    x,
    weight_ih,
    weight_hh,
    bias_ih=None,
    bias_hh=None,
    h0=None,
    c0=None,
    weight_hr=None,
    lengths=None,
    *,
    reverse=False,
):
    steps, batch, _ = x.shape
    h_n = _state(h0, batch, weight_hh.shape[1], x.dtype)
    c_n = _state(c0, batch, weight_hh.shape[0] // 4, x.dtype)
    output = np.zeros((steps, batch, weight_hh.shape[1]), x.dtype)
    tape = []
    for n in range(batch):
        for t in _times(x, lengths, n, reverse):
            h_before, c_before = h_n[n].copy(), c_n[n].copy()
            z = _affine(weight_ih, bias_ih, x[t, n]) + _affine(weight_hh, bias_hh, h_before)
            z_i, z_f, z_g, z_o = np.split(z, 4)
            i, f, g, o = _sigmoid(z_i), _sigmoid(z_f), np.tanh(z_g), _sigmoid(z_o)
            c_n[n] = f * c_before + i * g
            tanh_c = np.tanh(c_n[n])
            h_n[n] = o * tanh_c if weight_hr is None else weight_hr @ (o * tanh_c)
            output[t, n] = h_n[n]
            tape.append((t, n, h_before, c_before, i, f, g, o, tanh_c))
    inputs = {"x": x, "weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias_ih, "bias_hh": bias_hh}
    return (output, h_n, c_n), (inputs | {"h0": h0, "c0": c0, "weight_hr": weight_hr, "lengths": lengths}, tape)


def lstm_backward(saved, grads, needs):
    inputs, tape = saved
    x, weight_ih, weight_hh, weight_hr = (inputs[name] for name in ("x", "weight_ih", "weight_hh", "weight_hr"))
    grad_output, grad_h_n, grad_c_n = grads
    grad = _Gradients(**inputs)
    grad_h = _state(grad_h_n, x.shape[1], weight_hh.shape[1], x.dtype)
    grad_c = _state(grad_c_n, x.shape[1], weight_hh.shape[0] // 4, x.dtype)
    for t, n, h_before, c_before, i, f, g, o, tanh_c in reversed(tape):
        if grad_output is not None:
            grad_h[n] += grad_output[t, n]
        grad_m = grad_h[n]
        if weight_hr is not None:
            grad.weight_hr += np.outer(grad_h[n], o * tanh_c)
            grad_m = weight_hr.T @ grad_h[n]
        grad_c[n] += grad_m * o * (1 - tanh_c**2)
        grad_i, grad_f, grad_g, grad_o = grad_c[n] * g, grad_c[n] * c_before, grad_c[n] * i, grad_m * tanh_c
        grad_z = np.concatenate([grad_i * i * (1 - i), grad_f * f * (1 - f), grad_g * (1 - g**2), grad_o * o * (1 - o)])
        grad.affine("ih", grad_z, x[t, n])
        grad.affine("hh", grad_z, h_before)
        grad.x[t, n] = weight_ih.T @ grad_z
        grad_h[n] = weight_hh.T @ grad_z
        grad_c[n] *= f
    grad.h0, grad.c0 = grad_h, grad_c
    return grad.needed(needs)


def gru_forward(x, weight_ih, weight_hh, bias_ih=None, bias_hh=None, h0=None, lengths=None, *, reverse=False):
    steps, batch, _ = x.shape
    h_n = _state(h0, batch, weight_hh.shape[1], x.dtype)
    output = np.zeros((steps, batch, weight_hh.shape[1]), x.dtype)
    tape = []
    for n in range(batch):
        for t in _times(x, lengths, n, reverse):
            before = h_n[n].copy()
            x_r, x_z, x_n = np.split(_affine(weight_ih, bias_ih, x[t, n]), 3)
            h_r, h_z, h_new = np.split(_affine(weight_hh, bias_hh, before), 3)
            r, z = _sigmoid(x_r + h_r), _sigmoid(x_z + h_z)
            new = np.tanh(x_n + r * h_new)
            h_n[n] = (1 - z) * new + z * before
            output[t, n] = h_n[n]
            tape.append((t, n, before, r, z, new, h_new))
    inputs = {"x": x, "weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias_ih, "bias_hh": bias_hh}
    return (output, h_n), (inputs | {"h0": h0, "lengths": lengths}, tape)


def gru_backward(saved, grads, needs):
    inputs, tape = saved
    x, weight_ih, weight_hh = inputs["x"], inputs["weight_ih"], inputs["weight_hh"]
    grad_output, grad_h_n = grads
    grad = _Gradients(**inputs)
    grad_h = _state(grad_h_n, x.shape[1], weight_hh.shape[1], x.dtype)
    for t, n, before, r, z, new, h_new in reversed(tape):
        if grad_output is not None:
            grad_h[n] += grad_output[t, n]
        grad_x_n = grad_h[n] * (1 - z) * (1 - new**2)
        grad_z = grad_h[n] * (before - new) * z * (1 - z)
        grad_r = grad_x_n * h_new * r * (1 - r)
        grad_x_gates = np.concatenate([grad_r, grad_z, grad_x_n])
        grad_h_gates = np.concatenate([grad_r, grad_z, grad_x_n * r])
        grad.affine("ih", grad_x_gates, x[t, n])
        grad.affine("hh", grad_h_gates, before)
        grad.x[t, n] = weight_ih.T @ grad_x_gates
        grad_h[n] = grad_h[n] * z + weight_hh.T @ grad_h_gates
    grad.h0 = grad_h
    return grad.needed(needs)


# A cell is one step of its layer.


def rnn_cell_forward(x, weight_ih, weight_hh, bias_ih=None, bias_hh=None, h0=None, *, nonlinearity="tanh"):
    (_, h), saved = rnn_forward(x[None], weight_ih, weight_hh, bias_ih, bias_hh, h0, nonlinearity=nonlinearity)
    return h, saved


def rnn_cell_backward(saved, grad_h, needs):
    grad_x, *others = rnn_backward(saved, (None, grad_h), (*needs, False))[:-1]
    return (None if grad_x is None else grad_x[0], *others)


def lstm_cell_forward(x, weight_ih, weight_hh, bias_ih=None, bias_hh=None, h0=None, c0=None):
    (_, h, c), saved = lstm_forward(x[None], weight_ih, weight_hh, bias_ih, bias_hh, h0, c0)
    return (h, c), saved


def lstm_cell_backward(saved, grads, needs):
    grad_x, *others = lstm_backward(saved, (None, *grads), (*needs, False, False))[:-2]
    return (None if grad_x is None else grad_x[0], *others)


def gru_cell_forward(x, weight_ih, weight_hh, bias_ih=None, bias_hh=None, h0=None):
    (_, h), saved = gru_forward(x[None], weight_ih, weight_hh, bias_ih, bias_hh, h0)
    return h, saved


def gru_cell_backward(saved, grad_h, needs):
    grad_x, *others = gru_backward(saved, (None, grad_h), (*needs, False))[:-1]
    return (None if grad_x is None else grad_x[0], *others)
