"""ONNX's backend tests through Ranvier: which of their models run, how, and why the others do not.

python tests/judges/onnx_nodes.py        how many cases run, and how many are left out, by reason
"""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_elementary  # noqa: F401 - enters its operators
import onnx_layers  # noqa: F401 - enters its operators
from onnx import TensorProto
from onnx.backend.test.loader import load_model_tests
from onnx_operator import OPERATORS, Node

import ranvier as rv

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")


# ---- what is left out

_TYPES = frozenset(
    getattr(TensorProto, name)
    for name in ("BFLOAT16", "BOOL", "DOUBLE", "FLOAT", "FLOAT16", "INT16", "INT32", "INT64", "INT8", "UINT8")
)

NOT_OFFERED = {
    reason: frozenset(operators.split())
    for reason, operators in {
        "control flow: Python's own": "If Loop Scan",
        "sequences and optional values: Python's own": """
            ConcatFromSequence OptionalGetElement OptionalHasElement SequenceAt SequenceConstruct SequenceEmpty
            SequenceErase SequenceInsert SequenceLength SequenceMap SplitToSequence""",
        "text, trees, tables and pictures in files": """
            ArrayFeatureExtractor Binarizer ImageDecoder LabelEncoder RegexFullMatch StringConcat StringNormalizer
            StringSplit TfIdfVectorizer TreeEnsemble""",
        "quantised arithmetic": """
            ConvInteger DequantizeLinear DynamicQuantizeLinear MatMulInteger QLinearConv QLinearMatMul
            QuantizeLinear""",
        "bits of integers": "BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor",
        "spectra and windows of signals": "BlackmanWindow DFT HammingWindow HannWindow MelWeightMatrix STFT",
        "sampling at computed places, boxes": """
            AffineGrid DeformConv GridSample NonMaxSuppression RoiAlign""",
        "trigonometry but sin and cos, hyperbolic functions but tanh": """
            Acos Acosh Asin Asinh Atan Atanh Cosh Sinh Tan""",
        "scatter, top-k, unique, einsum, determinant: not offered": """
            Det Einsum ReverseSequence Scatter ScatterElements ScatterND TensorScatter TopK Unique""",
        "random numbers of another generator": "Bernoulli RandomUniformLike",
        "ONNX's own compositions, whose expansions run": """
            CausalConvWithState CenterCropPad FlexAttention LinearAttention RotaryEmbedding""",
        "gradients as nodes: the tape is their place": "Gradient",
        "Adam that corrects its bias after adding epsilon": "Adam",
    }.items()
}


def _resize_places(node) -> str:
    return node.get("coordinate_transformation_mode", "half_pixel")


# Operator -> (whether a node is left out, why).
CONDITIONS = {
    "Attention": [
        (lambda node: node.get("softcap", 0.0) != 0.0, "attention with capped scores"),
        (lambda node: node.asks_for(3), "attention's scores, which never exist as a whole"),
    ],
    "AveragePool": [(lambda node: set(node.get("dilations", [1])) != {1}, "dilated average and power pools")],
    "LpPool": [(lambda node: set(node.get("dilations", [1])) != {1}, "dilated average and power pools")],
    "GRU": [
        (
            lambda node: not node.get("linear_before_reset"),
            "GRU that resets before the product (PyTorch's, and cuDNN's, reset after it)",
        ),
    ],
    "LSTM": [
        (lambda node: node.has(7), "LSTM with peepholes"),
    ],
    "Mod": [(lambda node: node.get("fmod", 0) == 1, "remainders with the dividend's sign (fmod)")],
    "Resize": [
        (
            lambda node: _resize_places(node) in ("tf_crop_and_resize", "half_pixel_symmetric"),
            "resizing by another rule of places",
        ),
        (
            lambda node: (
                node.get("mode", "nearest") == "nearest"
                and (_resize_places(node), node.get("nearest_mode", "round_prefer_floor"))
                not in (("half_pixel", "round_prefer_floor"), ("asymmetric", "floor"))
            ),
            "resizing by another rule of places",
        ),
        (
            lambda node: node.get("mode") == "cubic" and _resize_places(node) == "asymmetric",
            "resizing by another rule of places",
        ),
        (
            lambda node: node.get("exclude_outside") or node.get("cubic_coeff_a", -0.75) != -0.75,
            "cubic resizing with another coefficient or border",
        ),
        (lambda node: node.get("antialias"), "antialiasing that repeats the border (PyTorch's and Pillow's cuts it)"),
    ],
}

_TIES = "nearest resizing whose ties go down (PyTorch's go up)"
_EMPTY = "the largest of no elements, which PyTorch refuses"
_DROPPED = "random numbers of another generator"
CASES = {
    "resize_upsample_sizes_nearest": _TIES,
    "resize_upsample_sizes_nearest_axes_2_3": _TIES,
    "resize_upsample_sizes_nearest_axes_3_2": _TIES,
    "resize_upsample_sizes_nearest_not_larger": _TIES,
    "resize_downsample_sizes_nearest": _TIES,
    "resize_downsample_sizes_nearest_not_larger": _TIES,
    "resize_downsample_sizes_nearest_not_smaller": _TIES,
    "resize_downsample_scales_linear_align_corners": "aligned corners of a fractional size",
    "resize_downsample_scales_cubic_align_corners": "aligned corners of a fractional size",
    "resize_downsample_sizes_linear_pytorch_half_pixel": "PyTorch's rule for one pixel, before it was mended",
    "training_dropout": _DROPPED,
    "training_dropout_default": _DROPPED,
    "training_dropout_default_mask": _DROPPED,
    "training_dropout_mask": _DROPPED,
    "col2im_5d": "fold of volumes",
    "onehot_out_of_range_indices": "one-hot of what is no class, which PyTorch refuses",
    "maxpool_2d_uint8": "pools of integers",
    "reduce_max_bool_inputs": "the largest of bools, which is any()",
    "reduce_min_bool_inputs": "the largest of bools, which is any()",
    "reduce_max_empty_set": _EMPTY,
    "reduce_max_empty_set_bool": _EMPTY,
    "reduce_min_empty_set": _EMPTY,
    "reduce_log_sum_exp_empty_set": _EMPTY,
}


def left_out(case, model) -> str | None:
    """Why a case is not run, or None.

    Raises:
        LookupError: an operator that is neither translated nor said to be left out.
    """
    nodes = [Node.of(proto, 1) for proto in model.graph.node]
    for node in nodes:
        for reason, operators in NOT_OFFERED.items():
            if node.kind in operators:
                return reason
        if node.kind not in OPERATORS:
            raise LookupError(f"{case.name}: no translation of {node.kind}, and no reason to leave it out")
    for wanted, reason in (
        ({None}, "sequences and optional values: Python's own"),
        ({TensorProto.STRING}, "text, trees, tables and pictures in files"),
        ({TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64}, "unsigned integers but uint8"),
    ):
        if wanted & _types(model, nodes):
            return reason
    if _types(model, nodes) - _TYPES:
        return "floats of 8 bits and fewer, integers of 4 bits and fewer"
    for node in nodes:
        for applies, reason in CONDITIONS.get(node.kind, ()):
            if applies(node):
                return reason
    return CASES.get(case.name.removeprefix("test_"))


def _types(model, nodes) -> set:
    """The element types that a model names; None for what is no tensor."""
    ends = [entry.type for entry in (*model.graph.input, *model.graph.output)]
    types = {end.tensor_type.elem_type if end.HasField("tensor_type") else None for end in ends}
    types |= {tensor.data_type for tensor in model.graph.initializer}
    for node in nodes:
        types |= {value.data_type for value in node.attributes.values() if isinstance(value, TensorProto)}
        types |= {node.get("to")} if node.kind == "Cast" else set()
    return types


# ---- running


def cases() -> list:
    """All test cases that ONNX brings, but for the trained networks that it would have to download."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ONNX divides by zero where it makes its cases
        return [case for kind in KINDS for case in load_model_tests(kind=kind)]


def model_of(case) -> onnx.ModelProto:
    return case.model if case.model is not None else onnx.load(Path(case.model_dir) / "model.onnx")


def data_sets(case) -> list[tuple[list, list]]:
    """(inputs, outputs) of each data set, arrays both."""
    if case.data_sets is not None:
        return [tuple([_array(x) for x in arrays] for arrays in data_set) for data_set in case.data_sets]
    folders = sorted(Path(case.model_dir).glob("test_data_set_*"))
    return [(_arrays(folder, "input"), _arrays(folder, "output")) for folder in folders]


def _arrays(folder: Path, name: str) -> list[np.ndarray]:
    count = len(list(folder.glob(f"{name}_*.pb")))
    return [onnx.numpy_helper.to_array(onnx.load_tensor(folder / f"{name}_{index}.pb")) for index in range(count)]


def _array(x) -> np.ndarray:
    """What cases hold: arrays, NumPy's scalars, and tensors of ONNX."""
    return onnx.numpy_helper.to_array(x) if isinstance(x, TensorProto) else np.asarray(x)


def run_model(model: onnx.ModelProto, inputs: list) -> list[np.ndarray]:
    """The outputs of a model's graph, its nodes computed one after the other."""
    graph, versions = model.graph, {entry.domain: entry.version for entry in model.opset_import}
    values = {tensor.name: rv.tensor(onnx.numpy_helper.to_array(tensor)) for tensor in graph.initializer}
    names = [entry.name for entry in graph.input]
    # Old models list initializers as inputs, too, and are given the rest.
    names = names if len(names) == len(inputs) else [name for name in names if name not in values]
    values |= {name: rv.tensor(array) for name, array in zip(names, inputs, strict=True)}
    for proto in graph.node:
        node = Node.of(proto, versions.get(proto.domain, 1))
        results = OPERATORS[node.kind](node, *(values[name] if name else None for name in node.inputs))
        results = results if isinstance(results, tuple) else (results,)
        values |= {name: results[index] for index, name in enumerate(node.outputs) if name}
    return [values[entry.name].numpy() for entry in graph.output]


def counts() -> Counter:
    """How many cases there are by reason to leave them out; None counts those that run."""
    return Counter(left_out(case, model_of(case)) for case in cases())


if __name__ == "__main__":
    found = counts()
    whole = found.total()
    print(f"{found.pop(None):5} of {whole} cases run; left out:")
    for reason, count in found.most_common():
        print(f"{count:5} {reason}")
