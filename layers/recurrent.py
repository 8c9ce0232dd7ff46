"""Recurrent layers and cells."""

from __future__ import annotations

import math
import warnings

import numpy as np

from ..kernels.check import check_size
from . import functional, init
from .layer import Layer
from .tensor import Parameter

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell"]


def _check_sizes(layer: str, **sizes) -> None:
    for name, size in sizes.items():
        check_size(layer, name, size, 1)


def _check_nonlinearity(layer: str, nonlinearity: str) -> None:
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"{layer}: expected nonlinearity as one of 'tanh', 'relu', got {nonlinearity!r}")


class _Weights(Layer):
    """What layers and cells share: parameters by PyTorch's names, drawn evenly from +-1 / sqrt(hidden_size)."""

    def _add_weights(self, suffix, gates, input_size, state_size, bias, dtype):
        rows = gates * self.hidden_size
        self.register_parameter(f"weight_ih{suffix}", Parameter(np.empty((rows, input_size), dtype)))
        self.register_parameter(f"weight_hh{suffix}", Parameter(np.empty((rows, state_size), dtype)))
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(f"{name}{suffix}", Parameter(np.empty(rows, dtype)) if bias else None)

    def reset_parameters(self) -> None:
        """Draws the initial values again."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)


class _Recurrent(_Weights):
    """Stacked layers in one or both directions. Subclasses say how many gates and which function."""

    _gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        dtype=np.float32,
    ):
        super().__init__()
        name = type(self).__name__
        _check_sizes(name, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        if isinstance(dropout, bool) or not isinstance(dropout, (int, float)):
            raise TypeError(f"{name}: expected dropout as a number, got {type(dropout).__name__}")
        if not 0 <= dropout <= 1:
            raise ValueError(f"{name}: expected dropout in [0, 1], got {dropout}")
        if not isinstance(proj_size, (int, np.integer)) or not 0 <= proj_size < hidden_size:
            raise ValueError(f"{name}: expected proj_size in 0..hidden_size - 1 = {hidden_size - 1}, got {proj_size}")
        if dropout and num_layers == 1:
            warnings.warn(f"{name}: dropout acts between layers, and there is one layer only", stacklevel=3)
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout, self.bidirectional = bias, batch_first, dropout, bidirectional
        self.proj_size = proj_size
        state_size = proj_size or hidden_size
        self._suffixes = [f"_l{i}{way}" for i in range(num_layers) for way in ("", "_reverse")[: 1 + bidirectional]]
        for index, suffix in enumerate(self._suffixes):
            first = index < 1 + bidirectional
            features = input_size if first else state_size * (1 + bidirectional)
            self._add_weights(suffix, self._gates, features, state_size, bias, dtype)
            if proj_size:
                weight_hr = Parameter(np.empty((proj_size, hidden_size), dtype))
                self.register_parameter(f"weight_hr{suffix}", weight_hr)
        self.reset_parameters()

    def _run(self, function, x, state, lengths):
        names = ["weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if self.bias else ())]
        names += ["weight_hr"] if self.proj_size else []
        params = [getattr(self, name + suffix) for suffix in self._suffixes for name in names]
        return function(
            x,
            state,
            params,
            self.bias,
            self.num_layers,
            self.dropout,
            self.training,
            self.bidirectional,
            self.batch_first,
            lengths,
        )

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        defaults = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        for name, default in (defaults | {"proj_size": 0}).items():
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)}"
        return text


class RNN(_Recurrent):
    """Plain recurrent layers (Elman): h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu.

    Args:
        input_size: features of the input.
        hidden_size: features of the state.
        num_layers: how many layers stand on each other.
        nonlinearity: 'tanh' or 'relu'.
        bias: whether b_ih and b_hh are there.
        batch_first: input and output are [N, T, ...] instead of [T, N, ...]; states stay as they are.
        dropout: probability with which outputs are dropped between layers while training.
        bidirectional: read each sequence both ways, and join the features.
        dtype: type of the parameters.

    Called as `layer(x, state=None, lengths=None)`:
        x: [T, N, input_size]; [T, input_size] is a single sequence.
        state: h_0 [num_layers * directions, N, hidden_size], zeros by default; without N for a single sequence.
        lengths: integers [N], the time steps of each sequence, in any order; all T by default.

    Returns:
        (output, h_n): output [T, N, directions * hidden_size], zero past a sequence's end; h_n laid out as h_0, each
        sequence's state at its own end.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype=np.float32,
    ):
        _check_nonlinearity("RNN", nonlinearity)
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype=dtype)
        self.nonlinearity = nonlinearity

    def forward(self, x, state=None, lengths=None):
        function = functional.rnn_tanh if self.nonlinearity == "tanh" else functional.rnn_relu
        return self._run(function, x, state, lengths)

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return text if self.nonlinearity == "tanh" else f"{text}, nonlinearity={self.nonlinearity!r}"


class LSTM(_Recurrent):
    """Long short-term memory, gates in the order i, f, g, o: c' = f c + i g, h' = o tanh(c').

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype: as for RNN.
        proj_size: where not 0, states are projected by weight_hr to so many features, fewer than hidden_size.

    Called as `layer(x, state=None, lengths=None)`, as RNN, with state (h_0, c_0).

    Returns:
        (output, (h_n, c_n)): output [T, N, directions * size] and h_n [num_layers * directions, N, size], where size is
        proj_size or else hidden_size; c_n [num_layers * directions, N, hidden_size].
    """

    _gates = 4

    def forward(self, x, state=None, lengths=None):
        output, h_n, c_n = self._run(functional.lstm, x, state, lengths)
        return output, (h_n, c_n)


class GRU(_Recurrent):
    """Gated recurrent units, gates in the order r, z, n: n = tanh(... + r (W_hn h + b_hn)), h' = (1 - z) n + z h.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype: as for RNN.

    Called as `layer(x, state=None, lengths=None)`, and returns (output, h_n), as RNN.
    """

    _gates = 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype=np.float32,
    ):
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype=dtype)

    def forward(self, x, state=None, lengths=None):
        return self._run(functional.gru, x, state, lengths)


class _Cell(_Weights):
    """One step. Subclasses say how many gates."""

    _gates = 1

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, dtype=np.float32):
        super().__init__()
        _check_sizes(type(self).__name__, input_size=input_size, hidden_size=hidden_size)
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        self._add_weights("", self._gates, input_size, hidden_size, bias, dtype)
        self.reset_parameters()

    @property
    def _params(self):
        return self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")


class RNNCell(_Cell):
    """One step of RNN.

    Args:
        input_size, hidden_size: features of the input and of the state.
        bias: whether b_ih and b_hh are there.
        nonlinearity: 'tanh' or 'relu'.
        dtype: type of the parameters.

    Called as `cell(x, state=None)`: x [N, input_size] and h [N, hidden_size] (zeros by default), both with or without
    N, give the next h.
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh", dtype=np.float32
    ):
        _check_nonlinearity("RNNCell", nonlinearity)
        super().__init__(input_size, hidden_size, bias, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, x, state=None):
        function = functional.rnn_tanh_cell if self.nonlinearity == "tanh" else functional.rnn_relu_cell
        return function(x, state, *self._params)

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return text if self.nonlinearity == "tanh" else f"{text}, nonlinearity={self.nonlinearity!r}"


class LSTMCell(_Cell):
    """One step of LSTM; arguments as for RNNCell but without nonlinearity.

    Called as `cell(x, state=None)` with state (h, c); gives the next (h, c).
    """

    _gates = 4

    def forward(self, x, state=None):
        return functional.lstm_cell(x, state, *self._params)


class GRUCell(_Cell):
    """One step of GRU; arguments as for RNNCell but without nonlinearity.

    Called as `cell(x, state=None)`; gives the next h.
    """

    _gates = 3

    def forward(self, x, state=None):
        return functional.gru_cell(x, state, *self._params)
