"""Cases: the declared ones and the user's, what is refused and what the refusal says."""

import numpy as np
import pytest

from ranvier.kernels.operation import all_operations
from ranvier.profiling import cases


def of_shapes(name, shapes, attributes=(), dtype="float32"):
    (operation,) = cases.select([name])
    parsed = cases.parse_attributes(attributes)
    return cases.case_of_shapes(operation, cases.parse_shapes(shapes), parsed, dtype)


@pytest.mark.parametrize("operation", list(all_operations()), ids=lambda operation: operation.name)
def test_every_operation_has_a_case_worth_timing_that_its_check_accepts(operation):
    declared = cases.declared_cases(operation, "float32")
    assert declared
    for case in declared:
        inputs = cases.stand_ins(case)
        operation.check(*inputs, **case.sample.attributes)
        assert sum(x.nbytes for x in inputs if hasattr(x, "nbytes")) >= 1 << 14


def test_words_name_operations_families_and_all():
    assert [operation.name for operation in cases.select(["conv2d", "relu", "conv2d"])] == ["conv2d", "relu"]
    assert {operation.name for operation in cases.select(["dense"])} == {"dense"}
    assert {operation.name for operation in cases.select(["dense/"])} == {"dense", "matmul"}
    assert {operation.name for operation in cases.select(["softmax", "recurrent"])} >= {"softmax", "lstm", "gru_cell"}
    assert cases.select(["all"]) == list(all_operations())
    assert cases.ambiguous(["dense", "conv", "norm", "relu", "softmax/"]) == ["dense", "norm"]


def test_a_word_that_names_nothing_gets_close_matches_and_all_there_is():
    with pytest.raises(ValueError, match=r"got 'conv2'; did you mean .*conv2d") as caught:
        cases.select(["conv2"])
    assert "Families: activation, attention, conv" in str(caught.value)


def test_shapes_of_the_user_become_inputs():
    case = of_shapes(
        "conv2d", ["x=2x4x6x5", "weight=8x4x3x3"], ["stride=2,2", "padding=((1,1),(0,2))", "activation=relu"]
    )
    x, weight, *others = case.build()
    assert (x.shape, weight.shape, others) == ((2, 4, 6, 5), (8, 4, 3, 3), [None, None])
    assert x.dtype == np.float32
    assert case.attributes["stride"] == (2, 2)
    assert case.attributes["padding"] == ((1, 1), (0, 2))
    assert case.attributes["activation"] == "relu"
    assert case.describe([x, weight, *others]) == (
        "x 2x4x6x5, weight 8x4x3x3; stride (2, 2), padding ((1, 1), (0, 2)), activation 'relu'"
    )


def test_inputs_hold_the_kind_of_values_that_the_operation_declares():
    logits, target, _ = of_shapes("cross_entropy", ["input=64x7", "target=64:7"]).build()
    assert logits.dtype == np.float32
    assert target.dtype == np.int64
    assert set(target) <= set(range(7))
    x, y = (
        of_shapes("log", ["x=100"]).build()[0],
        of_shapes("margin_ranking_loss", ["input1=9", "input2=9", "target=9"]),
    )
    assert x.min() > 0
    assert set(np.abs(y.build()[2])) == {1}
    assert [a.shape for a in of_shapes("concatenate", ["arrays[0]=2x3", "arrays[1]=4x3"], ["axis=0"]).build()] == [
        (2, 3),
        (4, 3),
    ]


@pytest.mark.parametrize(
    ("name", "shapes", "attributes", "message"),
    [
        (
            "conv2d",
            ["x=2x4x6x5"],
            [],
            "conv2d: expected --shape for its input 'weight' too.*for example --shape x=64x1x",
        ),
        (
            "conv2d",
            ["x=2x4", "wieght=3"],
            [],
            r"input among x, weight, bias, residual, got 'wieght' \(did you mean weight\?\)",
        ),
        ("conv2d", ["x=2*4", "weight=3"], [], "expected x as a shape such as 32x64.* got '2\\*4'"),
        ("conv2d", ["x=2x4x6x5", "weight=8x4x3x3"], ["strides=2"], r"attribute among stride, .* \(did you mean stride"),
        ("conv2d", ["x"], [], "--shape: expected NAME=VALUE such as x=32x64x56x56, got 'x'"),
        ("max_pool", ["x=2x4x6x5"], ["stride=2,2"], "--attribute for kernel_size, padding, dilation too, got stride"),
        ("concatenate", ["x=2x4"], ["axis=0"], r"inputs arrays\[0\], arrays\[1\], \.\.\., got 'x'"),
    ],
)
def test_wrong_shapes_are_refused_with_what_the_operation_takes(name, shapes, attributes, message):
    with pytest.raises(ValueError, match=message):
        of_shapes(name, shapes, attributes)


def test_a_case_of_another_name_is_refused_with_those_there_are():
    (operation,) = cases.select(["conv2d"])
    with pytest.raises(ValueError, match=r"conv2d: expected a case among lenet_first, .*resnet_56.*, got 'alexnet'"):
        cases.declared_cases(operation, "float32", ["alexnet"])


def test_what_would_not_fit_is_refused_before_it_is_allocated():
    # A petabyte, and an axis that no loop could walk in a test's time.
    case = of_shapes("relu", ["x=1000000x1000000x250"])
    with pytest.raises(
        ValueError, match=r"relu --shape: expected a case that fits in the [\d.]+ GiB of memory left on cpu"
    ):
        cases.check_fits(case, "cpu", variants=2, backward=True)


def test_what_variants_need_together_counts(monkeypatch):
    case = of_shapes("relu", ["x=1024x1024"])
    monkeypatch.setattr(cases, "available_bytes", lambda device: 40 << 20)
    cases.check_fits(case, "cpu", variants=1, backward=True)
    with pytest.raises(ValueError, match="fits in"):
        cases.check_fits(case, "cpu", variants=4, backward=True)


def test_an_impossible_shape_is_refused_by_the_operation():
    case = of_shapes("conv2d", ["x=2x4x6x5", "weight=8x3x3x3"])
    with pytest.raises(ValueError, match="conv2d: expected x of 3 channels"):
        cases.check_fits(case, "cpu", variants=1, backward=False)
