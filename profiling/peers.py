"""Other libraries that compute the same, where they are installed: PyTorch, NumPy with SciPy, CuPy.

Their calls are the tables `peers_torch.CALLS` and `peers_arrays.CALLS`. On the CPU PyTorch runs eagerly, and with its
images in channels-last memory where the operation is a convolution, a pool or a normalisation; on a GPU it runs eagerly
and compiled by torch.compile. NumPy and CuPy have forward passes only.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence

import numpy as np

from ..kernels.device import to_device
from .cases import Case
from .record import Missing
from .variants import NoPeer, Variant, as_tuple, differentiated, needed, rotating

_CHANNELS_LAST = ("conv", "pool", "norm")


def peer_variants(case: Case, inputs: Sequence, device: str, copies: int = 1) -> tuple[list[Variant], list[Missing]]:
    """All peers that can compute the case on the device, and those that cannot, each with its reason.

    Args:
        inputs: NumPy arrays, None and numbers.
        copies: sets of inputs that timed calls use in turn.
    """
    variants, missing = [], []
    for name, package, install, find in (
        ("pytorch", "torch", "torch", _torch_variants),
        ("numpy", "numpy", "numpy", _array_variants) if device == "cpu" else ("cupy", "cupy", "cupy", _array_variants),
    ):
        if importlib.util.find_spec(package) is None:
            missing.append(Missing(name, f"not installed: pip install {install}"))
            continue
        try:
            found = find(case, inputs, device, copies)
        except NoPeer as reason:
            missing.append(no_peer(name, case, reason))
            continue
        variants += found
        if name == "pytorch" and case.operation.differentiable and found[0].backward is None:
            from .peers_torch import FORWARD_ONLY

            missing.append(Missing(name, f"backward pass of {FORWARD_ONLY[case.operation.name]}"))
    return variants, missing


def no_peer(variant: str, case: Case, reason: NoPeer) -> Missing:
    """The line that says why a peer has no part in a case."""
    return Missing(variant, f"{case.operation.name}: {reason}")


# ---- NumPy with SciPy, CuPy


def _array_variants(case: Case, inputs: Sequence, device: str, copies: int) -> list[Variant]:
    from .peers_arrays import CALLS, NEED_SCIPY

    name = "numpy" if device == "cpu" else "cupy"
    call = CALLS.get(case.operation.name)
    if call is None:
        raise NoPeer("no such function")
    if case.dtype == "bfloat16":
        raise NoPeer("no bfloat16 of its own")
    xp, special = _array_modules(device)
    if special is None and case.operation.name in NEED_SCIPY:
        raise NoPeer("NumPy has no such function, and SciPy is not installed: pip install scipy")
    sets = [[to_device(x, device) if hasattr(x, "dtype") else x for x in inputs] for _ in range(copies)]
    attributes = case.attributes
    calls = [lambda arrays=arrays: as_tuple(call(xp, special, *arrays, **attributes)) for arrays in sets]
    return [
        Variant(
            name=name,
            configuration=xp.__version__,
            forward=calls[0],
            backward=None,
            fetch=lambda array: np.asarray(array) if device == "cpu" else array.get(),
            timed=rotating(calls),
        )
    ]


def _array_modules(device: str):
    if device == "cpu":
        if importlib.util.find_spec("scipy") is None:
            return np, None
        import scipy.special

        return np, scipy.special
    import cupy
    import cupyx.scipy.special

    return cupy, cupyx.scipy.special


# ---- PyTorch


def _torch_variants(case: Case, inputs: Sequence, device: str, copies: int) -> list[Variant]:
    import torch

    from .peers_torch import CALLS

    if device != "cpu" and not torch.cuda.is_available():
        raise NoPeer("this PyTorch finds no CUDA device")
    threads = f"{torch.get_num_threads()} threads" if device == "cpu" else f"CUDA {torch.version.cuda}"
    configuration = f"{torch.__version__}, {threads}"
    if case.family == "optimizer" and case.operation.name not in CALLS:
        return _optimizer_variants(case, inputs, device, configuration)
    call = CALLS.get(case.operation.name)
    if call is None:
        raise NoPeer("no such function")
    needs = needed(case, inputs) if case.operation.differentiable else (False,) * len(inputs)
    call = functools.partial(call, **case.attributes)

    def sets_in(memory_format=None):
        return [_leaves(inputs, needs, case.dtype, device, memory_format) for _ in range(copies)]

    variants = [_torch_variant("pytorch", configuration, call, case, sets_in())]
    if case.family in _CHANNELS_LAST and any(getattr(x, "ndim", 0) == 4 for x in inputs):
        sets = sets_in(torch.channels_last)
        variants.append(_torch_variant("pytorch channels-last", configuration, call, case, sets))
    if device != "cpu":
        variants.append(_torch_variant("pytorch compiled", configuration, torch.compile(call), case, sets_in()))
    return variants


def _leaves(inputs: Sequence, needs: Sequence[bool], dtype: str, device: str, memory_format=None) -> list:
    """The inputs as tensors of their own, those that need a gradient as leaves."""
    import torch

    tensors = []
    for x, need in zip(inputs, needs):
        if isinstance(x, (int, float)) and not isinstance(x, bool):
            x = torch.tensor(x, device=device, dtype=getattr(torch, dtype) if isinstance(x, float) else None)
        elif hasattr(x, "dtype"):
            x = to_tensor(x, device)
            if memory_format is not None and x.ndim == 4:
                x = x.contiguous(memory_format=memory_format)
            x.requires_grad_(need)
        tensors.append(x)
    return tensors


def _torch_variant(name: str, configuration: str, call, case: Case, sets: Sequence[list]) -> Variant:
    import torch

    from .peers_torch import FORWARD_ONLY

    def backward(grads: tuple):
        calls = []
        for tensors in sets:
            outputs = as_tuple(call(*tensors))
            chosen = [outputs[index] for index in differentiated(case, outputs)]
            given = [_laid_out_as(to_tensor(g, str(o.device)), o) for g, o in zip(grads, chosen)]
            leaves = [x for x in tensors if isinstance(x, torch.Tensor) and x.requires_grad]
            calls.append(
                lambda chosen=chosen, leaves=leaves, given=given: torch.autograd.grad(
                    chosen, leaves, given, retain_graph=True
                )
            )
        return rotating(calls)

    calls = [lambda tensors=tensors: as_tuple(call(*tensors)) for tensors in sets]
    has_backward = case.operation.differentiable and case.operation.name not in FORWARD_ONLY
    return Variant(name, configuration, calls[0], backward if has_backward else None, to_numpy, rotating(calls))


def _optimizer_variants(case: Case, inputs: Sequence, device: str, configuration: str) -> list[Variant]:
    """Optimizer objects of one parameter: as a loop of PyTorch's operations, and fused where there is such a kernel."""
    from .peers_torch import FUSED, optimizer

    names = case.operation.input_names(len(inputs))

    def make(**options):
        states = {name: to_tensor(x, device) for name, x in zip(names, inputs) if x is not None}
        return optimizer(case.operation.name, states, case.attributes, **options), states

    def variant(name: str, **options):
        def forward():
            step, states = make(**options)
            step.step()
            return tuple(x for key, x in states.items() if key != "gradient")

        return Variant(name, configuration, forward, None, to_numpy, make(**options)[0].step)

    variants = [variant("pytorch")]
    if case.operation.name in FUSED:
        variants.append(variant("pytorch fused", fused=True))
    return variants


def _laid_out_as(gradient, output):
    """The gradient with the strides that the output has, as it would come from the next layer."""
    import torch

    return torch.empty_like(output).copy_(gradient)


def to_tensor(array: np.ndarray, device: str):
    """A tensor of its own with an array's values; bfloat16 goes by its bits, which PyTorch cannot read from NumPy."""
    import torch

    if array.dtype.name == "bfloat16":
        return torch.tensor(array.view(np.int16)).view(torch.bfloat16).to(device)
    return torch.tensor(array).to(device)


def to_numpy(tensor) -> np.ndarray:
    """A tensor's values as an array, bfloat16 as float32."""
    import torch

    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
