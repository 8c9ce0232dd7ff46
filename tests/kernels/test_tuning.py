"""Choices of tiles, warps and stages: what is declared, what is shipped, how a call finds it. No GPU is needed."""

import math
import time

import numpy as np
import pytest

pytest.importorskip("triton", reason="GPU kernels come with Triton: `pip install ranvier[gpu-proof]`")

from ranvier.kernels import tuning
from ranvier.kernels.attention.gpu import GRAD_KEY_VALUE
from ranvier.kernels.dense.gpu_product import PRODUCT
from ranvier.kernels.recurrent.gpu_step_forward import STEP
from ranvier.kernels.tuning import Choice
from ranvier.profiling import cases, tune
from ranvier.profiling.occupancy import ARCHITECTURES

ARRAY = np.empty(0, np.float32)


@pytest.fixture(autouse=True)
def nothing_known():
    tuning.forget()
    yield
    tuning.forget()


@pytest.fixture(scope="module")
def questions():
    """What operations ask on the shapes that they declare for timing."""
    operations = cases.select(["dense/", "conv", "attention", "recurrent", "softmax/", "norm/", "sum", "var", "cumsum"])
    chosen = [
        case
        for operation in operations
        for dtype in ("float32", "float16", "float64")
        for case in cases.declared_cases(operation, dtype)
    ]
    return [task.question for task in tune.plan(chosen, 90)]


def test_choices_are_asked_for_by_the_shapes_for_timing(questions):
    assert len(questions) == len(set(questions))
    # A mask to be learned is in no shape for timing.
    assert set(Choice.registry) - {question.kernel for question in questions} == {"attention.grad_mask"}


_OTHERS = ("num_stages", "RESIDENT", "FUSED", "SCHEDULE", "SPLIT", "COPIED")  # fields that are no powers of two


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_shipped_and_what_is_tried_are_whole_configurations(architecture, questions):
    for question in questions:
        choice, dtype = Choice.registry[question.kernel], np.dtype(question.dtype)
        configurations = choice.configurations(architecture, dtype, question.bucket)
        assert configurations[0] == tuple(choice.shipped(architecture, dtype, question.bucket).values())
        assert len(configurations) == len(set(configurations))
        # Sequences in float64 are walked step by step: there is nothing to choose.
        fixed = question.kernel.startswith("recurrent.walk") and dtype == np.float64
        assert len(configurations) > 1 or math.prod(question.bucket) < 2048 or fixed
        for configuration in configurations:
            values = dict(zip(choice.fields, configuration, strict=True))
            assert all(value & (value - 1) == 0 < value for name, value in values.items() if name not in _OTHERS)
            assert values.get("RESIDENT", 0) in (0, 1)
            assert values.get("FUSED", 0) in (0, 1)
            assert values.get("SPLIT", 0) in (0, 1)
            assert values.get("COPIED", 0) in (0, 1)
            assert values.get("SCHEDULE", 0) in (0, 1, 2)
            assert 1 <= values.get("num_warps", 1) <= 16
            assert 1 <= values.get("num_stages", 1) <= 5


def test_an_architecture_has_room_where_a_block_can_have_163_kilobytes():
    for architecture, limits in ARCHITECTURES.items():
        assert tuning.has_room(architecture) == (limits.block_shared_bytes >= 163 * 1024)
    assert not tuning.has_room(121)  # and one that is not known has to make do with the least


def test_sizes_up_to_a_power_of_two_share_an_answer():
    assert PRODUCT.pick(ARRAY, 65, 100, 64, 1, False) is PRODUCT.pick(ARRAY, 128, 128, 33, 1, False)
    assert PRODUCT.pick(ARRAY, 129, 128, 64, 1, False) is not PRODUCT.pick(ARRAY, 128, 128, 64, 1, False)
    assert PRODUCT.pick(ARRAY, 128, 128, 64, 1, False) is not PRODUCT.pick(
        ARRAY.astype(np.float16), 128, 128, 64, 1, False
    )
    assert [question.bucket for question in tuning.asked()] == [
        (128, 128, 64, 1, False), (256, 128, 64, 1, False), (128, 128, 64, 1, False),
    ]  # fmt: skip


@pytest.mark.parametrize("size", [0, 1, 2, 3, 2**31, 2**31 + 1])
def test_every_size_has_a_bucket(size):
    STEP.pick(ARRAY, size, 64, 4, True)
    ((_, _, (bucket, *_)),) = tuning.asked()
    assert bucket >= max(size, 1)
    assert bucket < 2 * max(size, 2)


def test_a_tile_is_no_longer_than_its_axis_and_no_shorter_than_tensor_cores_take():
    tile = GRAD_KEY_VALUE.pick(ARRAY, 20, 5, 300, True)
    assert (tile["BLOCK_M"], tile["BLOCK_N"], tile["CHUNK"]) == (32, 16, 64)


def test_arrays_of_the_host_are_configured_for_the_assumed_architecture():
    sizes = (4096, 4096, 4096, 1, False)
    half = ARRAY.astype(np.float16)
    with tuning.assuming(90):
        assert PRODUCT.pick(half, *sizes)["BLOCK_K"] == 64
    with tuning.assuming(86):
        assert PRODUCT.pick(half, *sizes)["BLOCK_K"] == 32
    assert PRODUCT.pick(half, *sizes)["BLOCK_K"] == 64


def test_a_choice_has_one_name():
    with pytest.raises(ValueError, match=r"'dense\.product' is declared twice"):
        Choice("dense.product", ("BLOCK",), lambda *question: [], lambda *question: (1,))


def test_a_lookup_is_cheap():
    PRODUCT.pick(ARRAY, 1000, 1000, 1000, 1, False)
    rounds = []
    for _ in range(5):
        started = time.thread_time()
        for _ in range(1000):
            PRODUCT.pick(ARRAY, 1000, 1000, 1000, 1, False)
        rounds.append(time.thread_time() - started)
    assert min(rounds) / 1000 < 5e-6  # 0.6 us on a quiet machine; deciding anew takes 30 times as long
