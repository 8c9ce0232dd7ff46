"""PyTorch's own samples for its modules (ModuleInfo, what its test suite runs), forward and every gradient.

Each sample builds PyTorch's module and ours with the same arguments, loads the same state, and compares outputs,
gradients of inputs and of parameters. What is left out stands below, with the reason.
"""

import zlib

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `judges` brings PyTorch")

from torch.testing._internal.common_modules import module_db

import ranvier as rv

pytestmark = [pytest.mark.judge, pytest.mark.filterwarnings("ignore::UserWarning")]

LEFT_OUT = {
    "nn.FractionalMaxPool2d": "random pooling regions: not offered",
    "nn.FractionalMaxPool3d": "random pooling regions: not offered",
    "nn.LinearCrossEntropyLoss": "a fused loss of PyTorch's own: not offered",
    **{f"nn.LazyConv{t}{n}d": "lazy modules: not offered" for t in ("", "Transpose") for n in (1, 2, 3)},
}
TYPES = {"float32": torch.float32, "float64": torch.float64}
TOLERANCES = {"float32": 2e-4, "float64": 1e-9}


def samples():
    for info in module_db:
        name = info.name
        if name in LEFT_OUT:
            continue
        for dtype in TYPES:
            for training in (True, False):
                # The samples' values come from the global generator: one seed a module, whatever ran before.
                torch.manual_seed(zlib.crc32(name.encode()))
                made = info.module_inputs_func(
                    info, device="cpu", dtype=TYPES[dtype], requires_grad=True, training=training
                )
                for index, sample in enumerate(made):
                    mode = "train" if training else "eval"
                    yield pytest.param(info, sample, dtype, training, id=f"{name[3:]}-{index}-{dtype}-{mode}")


def ours(value, known, device):
    """A sample's value as ours: tensors become leaves of the same type (the same tensor the same leaf, by `known`),
    containers keep their form."""
    if isinstance(value, torch.Tensor):
        if id(value) not in known:
            known[id(value)] = rv.tensor(value.detach().numpy(), requires_grad=value.requires_grad, device=device)
        return known[id(value)]
    if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
        return type(value)(ours(item, known, device) for item in value)
    if value is torch.nn.functional.relu or value is torch.nn.functional.gelu:
        return getattr(rv.functional, value.__name__)
    if isinstance(value, torch.nn.TransformerEncoderLayer):
        return rv.TransformerEncoderLayer(
            value.self_attn.embed_dim, value.self_attn.num_heads, value.linear1.out_features, value.dropout.p,
            ours(value.activation, known, device), value.norm1.eps, value.self_attn.batch_first, value.norm_first,
            value.linear1.bias is not None,
        )  # fmt: skip
    return value


def flat(value):
    """Tensors in a nest of tuples, in order; None is passed over."""
    if value is None:
        return []
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in flat(item)]
    return [value]


def leaves(arguments):
    return [
        t for value in (*arguments.args, *arguments.kwargs.values()) for t in flat(value) if hasattr(t, "requires_grad")
    ]


@pytest.mark.parametrize(("info", "sample", "dtype", "training"), list(samples()))
def test_module(info, sample, dtype, training, device):
    constructor, arguments = sample.constructor_input, sample.forward_input
    theirs = info.module_cls(*constructor.args, **constructor.kwargs).to(TYPES[dtype]).train(training)
    known = {}
    args = [ours(a, known, device) for a in constructor.args]
    kwargs = {name: ours(value, known, device) for name, value in constructor.kwargs.items()}
    layer = getattr(rv, info.name.removeprefix("nn."))(*args, **kwargs).to(device, dtype).train(training)
    layer.load_state_dict({name: value.numpy() for name, value in theirs.state_dict().items()})

    my_args = [ours(a, known, device) for a in arguments.args]
    my_kwargs = {name: ours(value, known, device) for name, value in arguments.kwargs.items()}
    for tensor in leaves(arguments):
        if isinstance(tensor, torch.Tensor) and tensor.requires_grad:
            tensor.retain_grad()  # some samples' inputs are themselves results
    their_output, my_output = theirs(*arguments.args, **arguments.kwargs), layer(*my_args, **my_kwargs)
    their_flat, my_flat = flat(their_output), flat(my_output)
    assert len(their_flat) == len(my_flat)
    for theirs_one, mine in zip(their_flat, my_flat):
        close(mine, theirs_one, dtype, "output")

    differentiable = [(a, b) for a, b in zip(their_flat, my_flat) if a.requires_grad]
    if not differentiable:
        return
    generator = np.random.default_rng(0)
    grads = [np.asarray(generator.standard_normal(a.shape), dtype) for a, _ in differentiable]
    sum((a * torch.from_numpy(g)).sum() for (a, _), g in zip(differentiable, grads)).backward()
    total = None
    for (_, mine), g in zip(differentiable, grads):
        term = (mine * rv.tensor(g, device=device)).sum()
        total = term if total is None else total + term
    total.backward()
    mine_leaves = [t for value in (*my_args, *my_kwargs.values()) for t in flat(value) if isinstance(t, rv.Tensor)]
    their_leaves = [t for t in leaves(arguments) if isinstance(t, torch.Tensor)]
    if info.name == "nn.CTCLoss":
        through_log_softmax(their_leaves[0], mine_leaves[0])
    for index, (a, b) in enumerate(zip(their_leaves, mine_leaves, strict=True)):
        same_gradient(b, a, dtype, f"gradient of input {index}")
    mine_parameters = dict(layer.named_parameters())
    for name, parameter in theirs.named_parameters():
        same_gradient(mine_parameters[name], parameter, dtype, f"gradient of {name}")


def through_log_softmax(theirs, mine):
    """PyTorch's CTC gives the gradient of the scores before log_softmax, ours that of its argument; a log_softmax in
    front, which is where CTC's input comes from, makes them one: g - softmax * (sum of g)."""
    probability = theirs.detach().exp()
    theirs.grad = theirs.grad - probability * theirs.grad.sum(-1, keepdim=True)
    g = mine.grad.numpy()
    mine.grad = rv.tensor(g - probability.numpy() * g.sum(-1, keepdims=True), device=mine.device)


def same_gradient(mine, theirs, dtype, what):
    """Equal gradients; no gradient and a gradient of zeros count as the same."""
    if theirs.grad is None and mine.grad is None:
        return
    zero = np.zeros(mine.shape, dtype)
    a = zero if theirs.grad is None else theirs.grad.numpy()
    b = zero if mine.grad is None else mine.grad.numpy()
    np.testing.assert_allclose(b, a, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype], err_msg=what)


def close(mine, theirs, dtype, what):
    assert mine.shape == tuple(theirs.shape), f"{what}: shape {mine.shape}, PyTorch {tuple(theirs.shape)}"
    theirs = theirs.detach().numpy()
    assert mine.dtype == theirs.dtype, f"{what}: type {mine.dtype}, PyTorch {theirs.dtype}"
    np.testing.assert_allclose(mine.numpy(), theirs, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype] * 0.1, err_msg=what)
