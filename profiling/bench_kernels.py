"""The kernels that the bench times, forward and backward, as a user's program runs them: through the tape.

A case is one call of an operation in shapes that users have. Forward records what backward needs; backward computes the
gradient of every input that trains, and drops it. In PyTorch that is `torch.autograd.grad`, in Ranvier the tape's walk
into inputs that keep nothing, so that neither side pays for storing gradients.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..kernels.operation import Integers, Operation, Sample, Uniform, all_operations
from .agreement import disagreement
from .bench_libraries import CHANNELS_LAST, PYTORCH_VARIANTS, RANVIER, Prepared
from .bench_table import OVERHEAD
from .cases import Case, stand_ins
from .variants import as_tuple, needed

_IMAGE_FAMILIES = ("conv", "norm", "pool", "resize")
_RATE, _BANDWIDTH = 1e11, 1e10  # flop/s and bytes/s of a usual processor, for guesses


@dataclass(frozen=True)
class KernelCase:
    """One operation in one shape.

    Args:
        subject: the operation.
        case: what the shape is taken from.
        sample: the call; None for the operation's own sample of that name.
        fixed: inputs that do not train, as a first layer's images, besides those that never do.
        view: its backward pass computes nothing: the gradient is a view of the one that came in.
    """

    group: ClassVar[str] = "kernel"
    subject: str
    case: str
    sample: Sample | None = None
    fixed: tuple[str, ...] = ()
    view: bool = False

    @property
    def name(self) -> str:
        """What it is asked for by: "conv2d/resnet_56"."""
        return f"{self.subject}/{self.case}"

    @functools.cached_property
    def call(self) -> Case:
        """The operation with its sample."""
        operation = _operations()[self.subject]
        sample = self.sample or next(sample for sample in operation.samples if sample.name == self.case)
        return Case(operation, sample, "float32")

    @property
    def family(self) -> str:
        """The operation's folder."""
        return self.call.family

    @property
    def directions(self) -> tuple[str, ...]:
        """What is timed."""
        return ("forward", "backward") if self.call.operation.differentiable and not self.view else ("forward",)

    @property
    def variants(self) -> tuple[str, ...]:
        """What of PyTorch it is compared with: both memory layouts where there are images."""
        first = next(iter(self.call.sample.inputs.values()))
        shape = getattr(first, "shape", first)
        return PYTORCH_VARIANTS if self.family in _IMAGE_FAMILIES and len(shape) == 4 else PYTORCH_VARIANTS[:1]

    @property
    def shapes(self) -> str:
        """The shapes as people read them."""
        return self.call.describe(self._inputs)

    @property
    def cost(self):
        """Flops and bytes of a forward pass, as declared."""
        return self.call.operation.cost(*self._inputs, **self.call.sample.attributes)

    @property
    def expected(self) -> float:
        """Seconds that preparing and timing it may take, beyond what it is timed for: a guess for the progress bar."""
        cost = self.cost
        return 0.2 + 30 * (cost.flops / _RATE + cost.bytes / _BANDWIDTH)

    @functools.cached_property
    def _inputs(self) -> list:
        return stand_ins(self.call)

    def prepare(self, variant: str, shared: None) -> Prepared:
        """Forward and backward in a library, after one run of each, whose results are compared."""
        arrays = self.call.build()
        names = self.call.operation.input_names(len(arrays))
        trains = tuple(need and name not in self.fixed for need, name in zip(needed(self.call, arrays), names))
        make = _in_ranvier if variant == RANVIER else _in_pytorch
        functions, output, gradients = make(self.call, arrays, trains, variant)
        results = {"output": output} | {f"gradient of {names[index]}": grad for index, grad in gradients.items()}
        return Prepared(functions, results)

    def disagreement(self, ours: dict, theirs: dict) -> str | None:
        """What is wrong with PyTorch's results beside Ranvier's, None if they agree."""
        if ours.keys() != theirs.keys():
            return f"results {', '.join(theirs)}, Ranvier's are {', '.join(ours)}"
        sentences = (disagreement(self.call, [ours[key]], [theirs[key]], self._inputs, key) for key in ours)
        return next(filter(None, sentences), None)


@dataclass(frozen=True)
class OverheadCase(KernelCase):
    """An operation forward on so few numbers that its call is what takes the time: checks, dispatch, tape."""

    group: ClassVar[str] = OVERHEAD
    directions: ClassVar[tuple[str, ...]] = ("forward",)


def _in_ranvier(call: Case, arrays: list, trains: tuple[bool, ...], variant: str) -> tuple[dict, np.ndarray, dict]:
    """The timed functions by direction, the output, and the gradients by the index of their input."""
    from ..layers.create import tensor
    from ..layers.tensor import Tensor, apply, record

    def placed(array):
        """In memory as the library gives it, as PyTorch's inputs are in memory of its own."""
        return tensor(array).array if isinstance(array, np.ndarray) else array

    gradients: dict[int, np.ndarray] = {}

    def received(index: int, grad, needs) -> tuple[None]:
        gradients[index] = grad
        return (None,)

    def handed_on(index: int, array):
        """A tensor as another operation would hand it on: its gradient goes to `received`, and no further."""
        leaf = Tensor(np.empty(0, np.float32), requires_grad=True)
        return record("input", received, index, (leaf,), array)

    inputs = [handed_on(i, x) if train else x for i, (x, train) in enumerate(zip(map(placed, arrays), trains))]
    forward = functools.partial(apply, call.operation, *inputs, **call.sample.attributes)
    output = as_tuple(forward())[0]
    if not output.requires_grad:
        return {"forward": forward}, output.numpy(), {}
    grad = placed(_gradient_like(output.shape))

    def backward() -> None:
        output.backward(grad, retain_graph=True)
        gradients.clear()

    output.backward(grad, retain_graph=True)
    kept = {index: np.array(gradient) for index, gradient in gradients.items()}
    return {"forward": forward, "backward": backward}, output.numpy(), kept


def _in_pytorch(call: Case, arrays: list, trains: tuple[bool, ...], variant: str) -> tuple[dict, np.ndarray, dict]:
    """The timed functions by direction, the output, and the gradients by the index of their input."""
    import torch

    from .peers_torch import CALLS

    def placed(array, train: bool):
        if not isinstance(array, np.ndarray):
            return array
        tensor = torch.tensor(array)
        if variant == CHANNELS_LAST and tensor.ndim == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor.requires_grad_(train)

    inputs = [placed(array, train) for array, train in zip(arrays, trains)]
    forward = functools.partial(CALLS[call.operation.name], *inputs, **call.sample.attributes)
    output = as_tuple(forward())[0]
    if not output.requires_grad:
        return {"forward": forward}, output.numpy(), {}
    # In the layout of the output, as it would come from the next layer.
    grad = torch.empty_like(output).copy_(torch.from_numpy(_gradient_like(output.shape)))
    trained = {index: x for index, (x, train) in enumerate(zip(inputs, trains)) if train}
    backward = functools.partial(torch.autograd.grad, output, tuple(trained.values()), grad, retain_graph=True)
    gradients = {index: gradient.numpy() for index, gradient in zip(trained, backward())}
    return {"forward": forward, "backward": backward}, output.detach().numpy(), gradients


def _gradient_like(shape) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape, np.float32)


@functools.cache
def _operations() -> dict[str, Operation]:
    return {operation.name: operation for operation in all_operations()}


# ---- the cases


def _conv(case, x, weight, stride=1, padding=0, groups=1, dilation=1, subject="conv2d", fixed=(), **more) -> KernelCase:
    rank = len(x) - 2
    attributes = {
        "stride": (stride,) * rank,
        "padding": ((padding, padding),) * rank,
        "dilation": (dilation,) * rank,
        "groups": groups,
    }
    bias = weight[1] * groups if subject.startswith("conv_transpose") else weight[0]
    sample = Sample(case, {"x": x, "weight": weight, "bias": (bias,)}, attributes | more)
    return KernelCase(subject, case, sample, fixed)


def _recurrent(subject: str, case: str, time: int, batch: int, inputs: int, hidden: int) -> KernelCase:
    gates = {"rnn": 1, "gru": 3, "lstm": 4}[subject] * hidden
    shapes = {"weight_ih": (gates, inputs), "weight_hh": (gates, hidden), "bias_ih": (gates,), "bias_hh": (gates,)}
    weights = {name: Uniform(shape, -(hidden**-0.5), hidden**-0.5) for name, shape in shapes.items()}
    return KernelCase(subject, case, Sample(case, {"x": (time, batch, inputs)} | weights))


def _on(subject: str, case: str, inputs: dict, view: bool = False, **attributes) -> KernelCase:
    return KernelCase(subject, case, Sample(case, inputs, attributes), view=view)


def _attention(case: str, shape: tuple[int, ...], **attributes) -> KernelCase:
    return _on("scaled_dot_product_attention", case, dict.fromkeys(("query", "key", "value"), shape), **attributes)


def _declared(subject: str, *cases: str, fixed: tuple[str, ...] = ()) -> list[KernelCase]:
    return [KernelCase(subject, case, fixed=fixed) for case in cases]


_SMALL, _MAPS = (32, 128), (16, 64, 56, 56)
_POOL_2 = {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0), "dilation": (1, 1)}

_CONV = [
    *_declared("conv2d", "lenet", fixed=("x",)),
    _conv("lenet_2", (64, 6, 14, 14), (16, 6, 5, 5)),
    _conv("cifar_32", (32, 32, 32, 32), (32, 32, 3, 3), padding=1),
    *_declared("conv2d", "resnet_56"),
    _conv("resnet_28", (8, 128, 28, 28), (128, 128, 3, 3), padding=1),
    _conv("resnet_14", (8, 256, 14, 14), (256, 256, 3, 3), padding=1),
    _conv("resnet_7", (8, 512, 7, 7), (512, 512, 3, 3), padding=1),
    _conv("resnet_down", (8, 64, 56, 56), (128, 64, 3, 3), stride=2, padding=1),
    *_declared("conv2d", "resnet_stem", fixed=("x",)),
    *_declared("conv2d", "bottleneck"),
    _conv("bottleneck_out", (8, 64, 56, 56), (256, 64, 1, 1)),
    _conv("shortcut", (8, 256, 56, 56), (512, 256, 1, 1), stride=2),
    _conv("pointwise_14", (8, 512, 14, 14), (512, 512, 1, 1)),
    _conv("dilated", (2, 256, 33, 33), (256, 256, 3, 3), padding=2, dilation=2),
    *_declared("conv2d", "mobilenet_112"),
    _conv("depthwise_down", (8, 64, 112, 112), (64, 1, 3, 3), stride=2, padding=1, groups=64),
    _conv("depthwise_14", (8, 512, 14, 14), (512, 1, 3, 3), padding=1, groups=512),
    _conv("keywords", (32, 40, 100), (64, 40, 5), padding=2, subject="conv1d"),
    _conv("video", (2, 32, 8, 28, 28), (32, 32, 3, 3, 3), padding=1, subject="conv3d"),
    _conv("dcgan_28", (64, 128, 7, 7), (128, 64, 4, 4), stride=2, padding=1, subject="conv_transpose2d"),
    _conv("dcgan_16", (16, 256, 8, 8), (256, 128, 4, 4), stride=2, padding=1, subject="conv_transpose2d"),
]
_DENSE = [
    _on("dense", "tiny", {"x": _SMALL, "weight": (10, 128), "bias": (10,)}),
    _on("dense", "mnist", {"x": (128, 784), "weight": (512, 784), "bias": (512,)}, activation="relu"),
    *_declared("dense", "transformer_up", "vgg_classifier"),
    _on("matmul", "gemm_64", {"a": (64, 64), "b": (64, 64)}),
    _on("matmul", "gemm_256", {"a": (256, 256), "b": (256, 256)}),
    *_declared("matmul", "gemm_1024"),
    _on("matmul", "attention_24", {"a": (2, 12, 512, 64), "b": (2, 12, 64, 512)}),
]
_RECURRENT = [
    _recurrent("rnn", "rows_28", 28, 32, 28, 64),
    *_declared("rnn", "language", "speech"),
    _recurrent("lstm", "rows_28", 28, 32, 28, 64),
    *_declared("lstm", "language", "speech", "generation"),
    _recurrent("gru", "rows_28", 28, 32, 28, 64),
    *_declared("gru", "language", "speech", "generation"),
    *_declared("lstm_cell", "decoder"),
    *_declared("gru_cell", "decoder"),
]
_NORM = [
    _on("batch_norm", "resnet_layer1_8", {"x": (8, 64, 56, 56), "weight": (64,), "bias": (64,)}, eps=1e-5),
    *_declared("batch_norm", "resnet_layer4", "mlp"),
    *_declared("batch_norm_inference", "resnet_layer1"),
    *_declared("group_norm", "diffusion_unet"),
    *_declared("instance_norm", "style_transfer"),
    _on("layer_norm", "small", {"x": (32, 64), "weight": (64,), "bias": (64,)}, normalized_shape=(64,), eps=1e-5),
    *_declared("layer_norm", "transformer"),
    *_declared("rms_norm", "transformer"),
]
_POOL = [
    _on("max_pool", "lenet", {"x": (64, 6, 28, 28)}, **_POOL_2),
    _on("max_pool", "vgg_8", {"x": (8, 64, 56, 56)}, **_POOL_2),
    _on("max_pool", "resnet_stem", {"x": (8, 64, 112, 112)}, **_POOL_2 | {"kernel_size": (3, 3), "padding": (1, 1)}),
    _on("avg_pool", "inception_8", {"x": (8, 64, 56, 56)}, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1)),
    *_declared("adaptive_avg_pool", "resnet50_head"),
]
_RESIZE = [
    _on("interpolate", "bilinear_4", {"x": (4, 64, 56, 56)}, size=(112, 112), mode="linear"),
    _on("interpolate", "nearest_16", {"x": (16, 128, 16, 16)}, size=(32, 32), mode="nearest"),
    _on("pixel_shuffle", "super_resolution_4", {"x": (4, 256, 64, 64)}, upscale_factor=2),
]
_ACTIVATION = [
    _on("relu", "small", {"x": _SMALL}),
    _on("relu", "maps", {"x": _MAPS}),
    _on("leaky_relu", "maps", {"x": _MAPS}),
    _on("sigmoid", "maps", {"x": _MAPS}),
    _on("tanh", "maps", {"x": _MAPS}),
    _on("silu", "maps", {"x": _MAPS}),
    _on("gelu", "maps", {"x": _MAPS}),
]
_SOFTMAX_AND_LOSS = [
    _on("softmax", "digits", {"x": (64, 10)}),
    _on("softmax", "attention_4", {"x": (4, 12, 256, 256)}),
    _on("softmax", "vocabulary_64", {"x": (64, 50257)}),
    _on("softmax", "segmentation_2", {"x": (2, 21, 256, 256)}, axis=1),
    _on("log_softmax", "imagenet", {"x": (256, 1000)}),
    _on("cross_entropy", "digits", {"input": (64, 10), "target": Integers((64,), 0, 10)}),
    *_declared("cross_entropy", "imagenet"),
    _on("cross_entropy", "language_64", {"input": (64, 50257), "target": Integers((64,), 0, 50257)}),
    _on("cross_entropy", "segmentation_2", {"input": (2, 21, 256, 256), "target": Integers((2, 256, 256), 0, 21)}),
    _on("mse_loss", "autoencoder", {"input": (128, 784), "target": (128, 784)}),
    *_declared("binary_cross_entropy_with_logits", "images"),
]
_OTHER = [
    *_declared("scaled_dot_product_attention", "digits_transformer"),
    _attention("bert_512", (1, 12, 512, 64)),
    _attention("gpt2_1024", (1, 12, 1024, 64), is_causal=True),
    _on("embedding", "words", {"indices": Integers((32, 128), 0, 10000), "weight": (10000, 256)}),
    _on("dropout", "small", {"x": (256, 1024)}, p=0.5, seed=1),
    *_declared("dropout", "transformer"),
    _on("channel_dropout", "maps", {"x": (64, 512, 14, 14)}, p=0.5, seed=1),
]
_ELEMENTWISE = [
    _on("add", "small", {"x": _SMALL, "y": _SMALL}, view=True),
    _on("add", "maps", {"x": _MAPS, "y": _MAPS}, view=True),
    _on("add", "channel_bias", {"x": _MAPS, "y": (64, 1, 1)}),
    _on("multiply", "maps", {"x": _MAPS, "y": _MAPS}),
    _on("multiply", "row_scale", {"x": (4096, 768), "y": (768,)}),
    _on("multiply", "column_scale", {"x": (4096, 768), "y": (4096, 1)}),
    _on("divide", "maps", {"x": _MAPS, "y": _MAPS}),
    _on("maximum", "maps", {"x": _MAPS, "y": _MAPS}),
    _on("exp", "maps", {"x": _MAPS}),
    _on("log", "positive", {"x": Uniform((4096, 768), 0.1, 2.0)}),
    _on("square", "maps", {"x": _MAPS}),
]
_REDUCE = [
    _on("sum", "small", {"x": _SMALL}, view=True, axis=(0, 1)),
    _on("sum", "all", {"x": _MAPS}, view=True, axis=(0, 1, 2, 3)),
    _on("sum", "channels", {"x": _MAPS}, view=True, axis=(0, 2, 3)),
    _on("mean", "rows", {"x": (4096, 1000)}, view=True, axis=(1,)),
    _on("mean", "columns", {"x": (4096, 1000)}, view=True, axis=(0,)),
    _on("var", "rows", {"x": (4096, 1000)}, axis=(1,)),
    *_declared("max", "logits"),
    *_declared("argmax", "logits"),
    _on("norm", "parameters", {"x": (10_000_000,)}, axis=(0,)),
    _on("cumsum", "rows", {"x": (4096, 1000)}, axis=1),
]
_SHAPE = [
    _on("concatenate", "skip", {"arrays[0]": (8, 64, 64, 64), "arrays[1]": (8, 64, 64, 64)}, view=True, axis=1),
    _on("pad", "feature_maps", {"x": (16, 64, 56, 56)}, widths=((0, 0), (0, 0), (1, 1), (1, 1))),
    _on("advanced_index", "rows", {"x": (50000, 256), "indices[0]": Integers((4096,), 0, 50000)}, axis=0),
]
CASES = [
    *_CONV,
    *_DENSE,
    *_RECURRENT,
    *_NORM,
    *_POOL,
    *_RESIZE,
    *_ACTIVATION,
    *_SOFTMAX_AND_LOSS,
    *_OTHER,
    *_ELEMENTWISE,
    *_REDUCE,
    *_SHAPE,
]


def _call(subject: str, inputs: dict, **attributes) -> OverheadCase:
    return OverheadCase(subject, "call", Sample("call", inputs, attributes))


_FEW = (8, 8)
OVERHEADS = [
    _call("relu", {"x": _FEW}),
    _call("add", {"x": _FEW, "y": _FEW}),
    _call("multiply", {"x": _FEW, "y": 0.5}),
    _call("exp", {"x": _FEW}),
    _call("sum", {"x": _FEW}, axis=(0, 1)),
    _call("softmax", {"x": _FEW}),
    _call("dense", {"x": _FEW, "weight": _FEW, "bias": (8,)}),
    _call("layer_norm", {"x": _FEW, "weight": (8,), "bias": (8,)}, normalized_shape=(8,), eps=1e-5),
    _call("cross_entropy", {"input": _FEW, "target": Integers((8,), 0, 8)}),
]
