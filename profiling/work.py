"""The least work of a pass: what rates and the roofline are computed from, the same for every variant of a case.

A forward pass is what the operation declares. A backward pass is derived from it, by one rule a family:

    products (dense, matmul,      as many operations as the forward pass for each operand that gets a gradient: each
    convolutions)                 gradient is a product of the same three sizes
    recurrent                     twice the forward pass: as above, for the weights and for inputs and states
    attention                     two and a half times the forward pass's two products: the scores again, and a product
                                  each for the gradients of value, weights, query and key (Dao et al. 2022)
    all others                    as many operations as the forward pass; memory bounds them

    bytes                         what the forward pass saved and the output's gradient are read once, each gradient is
                                  written once; a gradient that is a view of the output's costs nothing

Biases, activations and the sums of their gradients are not counted beside products, as in torch.utils.flop_counter.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from ..kernels.operation import Cost, Operation
from .cases import Case

_OPERANDS = {"dense": ("x", "weight"), "matmul": ("a", "b"), "conv": ("x", "weight")}


def forward_work(case: Case, inputs: Sequence) -> Cost:
    """What the operation declares for a forward pass."""
    return case.operation.cost(*inputs, **case.sample.attributes)


def backward_work(case: Case, inputs: Sequence, saved, grad_outputs: Sequence, grads: Sequence) -> Cost:
    """The least work of a backward pass, by the rules above.

    Args:
        inputs: of the forward pass.
        saved: what it saved.
        grad_outputs: the outputs' gradients, None for outputs without.
        grads: the inputs' gradients, None for inputs without.
    """
    written = [g for g in grads if g is not None and not any(_same_memory(g, o) for o in grad_outputs)]
    if not written:
        return Cost(flops=0, bytes=0)
    read = {id(array): array for array in _arrays(saved)} | {id(g): g for g in grad_outputs if g is not None}
    moved = sum(array.nbytes for array in (*read.values(), *written))
    return Cost(flops=backward_flops(case, inputs, grads), bytes=moved)


def backward_flops(case: Case, inputs: Sequence, grads: Sequence) -> int:
    """The floating-point operations of a backward pass that gives these gradients."""
    names = case.operation.input_names(len(inputs))
    given = [name for name, grad in zip(names, grads) if grad is not None]
    return backward_flops_of(case.operation, forward_work(case, inputs).flops, given)


def backward_flops_of(operation: Operation, forward: int, given: Collection[str]) -> int:
    """The floating-point operations of a backward pass.

    Args:
        operation: whose it is.
        forward: those of the forward pass.
        given: the names of the inputs that get a gradient.
    """
    family = operation.family.rpartition(".")[2]
    operands = _OPERANDS.get(operation.name if operation.name in _OPERANDS else family)
    if operands is not None:
        return forward * sum(name in operands for name in given)
    if family == "recurrent":
        return 2 * forward
    if family == "attention":
        return 5 * forward // 2
    return forward


def _arrays(value) -> list:
    """The arrays in nested tuples, lists, dicts and objects."""
    if hasattr(value, "nbytes") and hasattr(value, "shape"):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif hasattr(value, "__dict__"):
        value = vars(value).values()
    elif not isinstance(value, (tuple, list)):
        return []
    return [array for item in value for array in _arrays(item)]


def _same_memory(a, b) -> bool:
    if b is None:
        return False
    if isinstance(a, np.ndarray):
        return np.may_share_memory(a, b)
    return a.data.ptr == b.data.ptr
