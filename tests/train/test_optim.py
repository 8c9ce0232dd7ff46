"""Flat buffers, groups, freezing, state and clipping. That the steps themselves are right: tests/judges."""

import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranvier.kernels import optimizer as kernels
from ranvier.kernels.operation import Operation
from ranvier.kernels.optimizer import flat
from ranvier.kernels.optimizer.clipping import total_norm, total_norm_on_device
from ranvier.layers import Dense, Parameter, Tensor, functional
from ranvier.train import optim
from ranvier.train.clip import clip_grad_norm_, clip_grad_value_

SHAPES = [(5, 7), (3,), (), (0,), (2, 3, 4)]
EVERY = [
    pytest.param(lambda p: optim.SGD(p, 0.1, momentum=0.9, dampening=0.1), id="SGD"),
    pytest.param(lambda p: optim.Adam(p, 0.1, amsgrad=True), id="Adam"),
    pytest.param(lambda p: optim.AdamW(p, 0.1), id="AdamW"),
    pytest.param(lambda p: optim.NAdam(p, 0.1), id="NAdam"),
    pytest.param(lambda p: optim.RAdam(p, 0.1), id="RAdam"),
    pytest.param(lambda p: optim.Adamax(p, 0.1), id="Adamax"),
    pytest.param(lambda p: optim.Lion(p, 0.1, weight_decay=0.1), id="Lion"),
    pytest.param(lambda p: optim.RMSprop(p, 0.1, momentum=0.5, centered=True), id="RMSprop"),
    pytest.param(lambda p: optim.Adagrad(p, 0.1, initial_accumulator_value=0.1), id="Adagrad"),
    pytest.param(lambda p: optim.Adadelta(p, 0.1), id="Adadelta"),
]


def parameters(dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return [Parameter(np.asarray(rng.standard_normal(shape)).astype(dtype)) for shape in SHAPES]


def set_gradients(parameters, seed, present=lambda index: True):
    rng = np.random.default_rng(seed)
    for index, p in enumerate(parameters):
        gradient = np.asarray(rng.standard_normal(p.shape)).astype(p.dtype)
        p.grad = Tensor(gradient) if present(index) else None


def values(parameters):
    return [p.array.copy() for p in parameters]


def assert_equal(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def calls(monkeypatch):
    """The sizes of the parameter arrays of all operations that ran."""
    sizes, forward = [], Operation.forward

    def counting(self, *inputs, **attributes):
        sizes.append(inputs[0].size)
        return forward(self, *inputs, **attributes)

    monkeypatch.setattr(Operation, "forward", counting)
    return sizes


# ---- flat buffers


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=3).map(tuple), min_size=1, max_size=8),
    dtype=st.sampled_from([np.float16, ml_dtypes.bfloat16, np.float32, np.float64]),
)
def test_pack_keeps_values_and_aligns(shapes, dtype):
    rng = np.random.default_rng(0)
    arrays = [np.asarray(rng.standard_normal(shape)).astype(dtype) for shape in shapes]
    buffer, views = flat.pack(arrays)
    assert_equal(views, arrays)
    for view in views:
        assert view.size == 0 or (view.__array_interface__["data"][0] % 64 == 0 and view.base is buffer)
    assert np.count_nonzero(buffer) == sum(np.count_nonzero(a) for a in arrays), "gaps are zero"
    covered = flat.joined(views)
    assert len(covered) == any(a.size for a in arrays)
    assert sum(part.astype(float).sum() for part in covered) == pytest.approx(
        sum(a.astype(float).sum() for a in arrays)
    )


def test_joined_leaves_out_what_was_left_out():
    buffer, views = flat.pack([np.ones(n) for n in (3, 1, 20, 2, 8)])
    assert [part.size for part in flat.joined([views[i] for i in (4, 0, 2, 3)])] == [3, 40]
    other, others = flat.pack([np.ones(4)])
    first, second = flat.joined([others[0], views[0]])
    assert first.base is other
    assert second.base is buffer


def test_parameters_and_gradients_are_views_of_two_buffers():
    layer = Dense(4, 3)
    before = values(layer.parameters())
    optimizer = optim.Adam(layer.parameters())
    assert_equal(values(layer.parameters()), before)
    assert layer.weight.array.base is layer.bias.array.base
    (gradient,) = optimizer.gradient_buffers()
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    for _ in range(2):
        optimizer.zero_grad()
        functional.linear(Tensor(x), layer.weight, layer.bias).backward(np.ones((2, 3), np.float32))
        assert layer.weight.grad.array.base is layer.bias.grad.array.base is gradient
        np.testing.assert_allclose(layer.weight.grad.numpy(), np.ones((3, 1)) * x.sum(axis=0), rtol=1e-6)


def test_a_step_is_one_call(calls):
    layer = Dense(4, 3)
    optimizer = optim.Adam(layer.parameters())
    functional.linear(Tensor(np.ones((2, 4), np.float32)), layer.weight, layer.bias).backward(np.ones((2, 3), "f4"))
    calls.clear()
    optimizer.step()
    assert calls == [optimizer.gradient_buffers()[0].size]
    calls.clear()
    clip_grad_norm_(layer.parameters(), 1e-3)
    assert len(calls) == 2  # the norm, and the scaling
    calls.clear()
    clip_grad_value_(layer.parameters(), 1e-3)
    assert len(calls) == 1


def test_runs_are_called_together(calls):
    p = parameters()
    optimizer = optim.SGD(p)
    set_gradients(p, 1, lambda index: index != 1)
    optimizer.step()
    assert len(calls) == 2
    set_gradients(p, 1)
    calls.clear()
    optimizer.step()
    assert len(calls) == 1  # plain SGD counts nothing, so all parameters are alike again


def test_types_have_buffers_of_their_own():
    p = [Parameter(np.ones(3, dtype)) for dtype in (np.float32, np.float64, np.float16, np.float32)]
    optimizer = optim.SGD(p, lr=0.5)
    assert [b.dtype for b in optimizer.gradient_buffers()] == [np.float32, np.float64, np.float16]
    for q in p:
        q.grad = Tensor(np.ones(3, q.dtype))
    optimizer.step()
    for q in p:
        np.testing.assert_array_equal(q.array, np.full(3, 0.5, q.dtype))


# ---- which parameters are stepped


@pytest.mark.parametrize("make", EVERY)
def test_parameters_without_gradient_and_frozen_ones_stay(make):
    p = parameters()
    optimizer = make(p)
    set_gradients(p, 1)
    optimizer.step()
    before = values(p)
    set_gradients(p, 2, lambda index: index != 0)
    p[1].requires_grad_(False)
    optimizer.step()
    changed = [not np.array_equal(q.array, b) for q, b in zip(p, before)]
    assert changed == [False, False, True, False, True]  # the fourth has no elements
    set_gradients(p, 3)
    p[1].requires_grad_(True)
    optimizer.step()
    assert not np.array_equal(p[0].array, before[0])
    assert not np.array_equal(p[1].array, before[1])


@pytest.mark.parametrize("make", EVERY)
def test_a_parameter_in_company_steps_as_it_does_alone(make):
    """Gradients come and go; packed with others or not, the bits are the same."""
    together, alone = parameters(np.float32), parameters(np.float32)
    optimizers = [make(together)], [make([p]) for p in alone]
    pattern = np.random.default_rng(5).random((9, len(SHAPES))) < 0.6
    for step, present in enumerate(pattern):
        for p, group in zip((together, alone), optimizers):
            set_gradients(p, step, lambda index: present[index])  # noqa: B023
            for optimizer in group:
                optimizer.step()
    assert_equal(values(together), values(alone))


def test_gradient_set_by_hand_is_used_and_accumulated_onto():
    layer = Dense(2, 1, bias=False, dtype=np.float64)
    optimizer = optim.SGD(layer.parameters(), lr=1.0)
    start = layer.weight.array.copy()
    layer.weight.grad = Tensor(np.array([[1.0, 2.0]]).T.copy().T)
    functional.linear(Tensor(np.ones((1, 2))), layer.weight).backward(np.ones((1, 1)))
    optimizer.step()
    np.testing.assert_allclose(layer.weight.array, start - [[2.0, 3.0]])
    layer.weight.grad = Tensor(np.ones((2, 1)))
    with pytest.raises(ValueError, match=r"gradient of a parameter of shape \(1, 2\), got \(2, 1\)"):
        optimizer.step()
    layer.weight.grad = Tensor(np.ones((1, 2), np.float32))
    with pytest.raises(TypeError, match="gradient of a parameter as float64 on cpu, got float32"):
        optimizer.step()


def test_gradients_from_before_the_optimizer_count():
    p = parameters()
    set_gradients(p, 1)
    gradients = [q.grad.array.copy() for q in p]
    before = values(p)
    optimizer = optim.SGD(p, lr=0.5)
    assert_equal([q.grad.array for q in p], gradients)
    optimizer.step()
    assert_equal(values(p), [b - 0.5 * g for b, g in zip(before, gradients)])


def test_closure_is_called_and_its_loss_returned():
    p = parameters()
    optimizer = optim.SGD(p)
    before = values(p)

    def closure():
        set_gradients(p, 1)
        return 7.0

    assert optimizer.step(closure) == 7.0
    assert not np.array_equal(p[0].array, before[0])


def test_zero_grad():
    p = parameters()
    optimizer = optim.SGD(p)
    set_gradients(p, 1)
    optimizer.zero_grad(set_to_none=False)
    assert all(not q.grad.array.any() for q in p)
    optimizer.zero_grad()
    assert all(q.grad is None for q in p)


# ---- parameters whose arrays were replaced


@pytest.mark.parametrize("make", EVERY)
def test_replaced_arrays_are_taken_back_with_their_state(make):
    moved, still = parameters(), parameters()
    optimizers = make(moved), make(still)
    for step in range(6):
        for p, optimizer in zip((moved, still), optimizers):
            set_gradients(p, step)
            optimizer.step()
        index = step % len(moved)
        moved[index].array = np.asarray(moved[index].array * 0.5)
        still[index].array[...] *= 0.5
    assert_equal(values(moved), values(still))
    assert moved[1].array.base is moved[4].array.base


@pytest.mark.parametrize("make", EVERY)
def test_a_model_that_changes_its_type_keeps_its_state(make):
    p, exact = parameters(np.float32), parameters(np.float32)
    for q in exact:
        q.array = q.array.astype(np.float64)
    optimizer, judge = make(p), make(exact)
    for step in range(6):
        for q, group in ((p, optimizer), (exact, judge)):
            set_gradients(exact, step)
            for a, b in zip(q, exact):
                a.grad = Tensor(b.grad.array.astype(a.dtype))
            group.step()
        if step == 2:
            for q in p:  # what Layer.to does
                q.array, q.grad, q.grad_buffer = q.array.astype(np.float64), None, None
    for a, b in zip(p, exact):
        assert a.dtype == np.float64
        np.testing.assert_allclose(a.array, b.array, atol=2e-5)


def test_two_optimizers_may_share_parameters():
    p = parameters()
    before = values(p)
    first, second = optim.SGD(p, lr=0.1), optim.SGD(p[1:], lr=0.3)
    total = [np.zeros_like(b) for b in before]
    for step in range(6):
        set_gradients(p, step)
        for index, q in enumerate(p):
            total[index] += (0.1 if step % 2 else 0.3 * (index > 0)) * q.grad.array
        (first if step % 2 else second).step()
    for q, b, t in zip(p, before, total):
        np.testing.assert_allclose(q.array, b - t, rtol=1e-12)


# ---- groups and options


def test_groups_take_defaults_and_names():
    p = parameters()
    named = list(zip("abcde", p))
    optimizer = optim.AdamW(
        [{"params": named[:2], "weight_decay": 0.0}, {"params": p[2], "name": "scalar"}], lr=0.5, betas=[0.5, 0.6]
    )
    optimizer.add_param_group({"params": iter(p[3:])})
    assert [len(g["params"]) for g in optimizer.param_groups] == [2, 1, 2]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.0, 1e-2, 1e-2]
    assert optimizer.param_groups[0]["param_names"] == ["a", "b"]
    assert [list(g["betas"]) for g in optimizer.param_groups] == [[0.5, 0.6]] * 3
    assert "group 1: 1 parameters, lr=0.5" in repr(optimizer)


def test_learning_rate_may_be_changed_at_any_time():
    p = parameters()
    optimizer = optim.SGD(p, lr=1.0)
    optimizer.param_groups[0]["lr"] = 0.0
    before = values(p)
    set_gradients(p, 1)
    optimizer.step()
    assert_equal(values(p), before)
    optimizer.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match=r"^sgd: expected lr"):
        optimizer.step()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: optim.SGD([]), ValueError, "^SGD: expected one or more parameters"),
        (lambda p: optim.SGD(p[0]), TypeError, "^SGD: expected params as parameters or a list"),
        (lambda p: optim.SGD([p[0].array]), TypeError, "^SGD: expected parameters as tensors, got ndarray"),
        (lambda p: optim.SGD([Tensor(np.zeros(3, int))]), TypeError, "floating-point type, got int64"),
        (lambda p: optim.SGD([p[0], p[0]]), ValueError, r"each parameter once, got one of shape \(5, 7\) twice"),
        (lambda p: optim.SGD([{"params": p[:2]}, {"params": p[1:]}]), ValueError, "each parameter once"),
        (lambda p: optim.SGD([{"lr": 1.0}]), TypeError, "group as a dict with the key 'params'"),
        (lambda p: optim.SGD([{"params": p, "rate": 1.0}]), ValueError, "keys of lr, momentum.*got 'rate'"),
        (lambda p: optim.SGD([functional.linear(p[0], p[0])]), ValueError, "parameters as leaves"),
        (lambda p: optim.SGD(p, lr=-1.0), ValueError, r"^sgd: expected lr in \[0, inf\), got -1"),
        (lambda p: optim.SGD(p, nesterov=True), ValueError, "^sgd: expected nesterov with momentum"),
        (lambda p: optim.Adam(p, betas=(0.9, 1.0)), ValueError, r"^adam: expected betas\[1\]"),
        (lambda p: optim.NAdam(p, betas=(1.9, 0.9)), ValueError, r"^nadam: expected betas\[0\]"),
        (lambda p: optim.Adam([{"params": p, "eps": float("nan")}]), ValueError, "^adam: expected eps"),
        (lambda p: optim.Adagrad(p, initial_accumulator_value=-1.0), ValueError, "initial_accumulator_value in"),
        (lambda p: optim.RMSprop(p, alpha=2), ValueError, "^rmsprop: expected alpha"),
    ],
)
def test_bad_options_are_refused_with_a_reason(call, error, message):
    with pytest.raises(error, match=message):
        call(parameters())


# ---- state


def through_json(state):
    """A state as a checkpoint gives it back: arrays as they are, everything else as JSON has it."""
    arrays = {(i, k): v for i, entry in state["state"].items() for k, v in entry.items() if isinstance(v, np.ndarray)}
    assert all(array.flags.c_contiguous for array in arrays.values())
    numbers = {
        "state": {i: {k: v for k, v in e.items() if (i, k) not in arrays} for i, e in state["state"].items()},
        "param_groups": state["param_groups"],
    }
    back = json.loads(json.dumps(numbers))
    for (index, name), array in arrays.items():
        back["state"][index][name] = array.copy()
    return back


@pytest.mark.parametrize("make", EVERY)
def test_state_goes_on_bit_for_bit(make):
    whole, first = parameters(np.float32), parameters(np.float32)
    optimizers = make(whole), make(first)
    for step in range(4):
        for p, optimizer in zip((whole, first), optimizers):
            set_gradients(p, step, lambda index: index != 1 or step % 2)  # noqa: B023
            optimizer.step()
    second = [Parameter(p.array.copy()) for p in first]
    resumed = make(second)
    optimizers[1].param_groups[0]["lr"] = optimizers[0].param_groups[0]["lr"] = 0.05
    resumed.load_state_dict(through_json(optimizers[1].state_dict()))
    assert resumed.param_groups[0]["lr"] == 0.05
    for step in range(4, 8):
        for p, optimizer in ((whole, optimizers[0]), (second, resumed)):
            set_gradients(p, step)
            optimizer.step()
    assert_equal(values(whole), values(second))


def test_state_lists_only_what_has_been_stepped():
    p = parameters()
    optimizer = optim.Adam(p)
    assert optimizer.state_dict()["state"] == {}
    set_gradients(p, 1, lambda index: index == 4)
    optimizer.step()
    state = optimizer.state_dict()
    assert list(state["state"]) == ["4"]
    assert set(state["state"]["4"]) == {"step", "exp_avg", "exp_avg_sq"}
    assert state["state"]["4"]["exp_avg"].shape == (2, 3, 4)
    assert state["param_groups"][0]["params"] == [0, 1, 2, 3, 4]


def test_state_that_does_not_fit_is_refused_and_changes_nothing():
    p = parameters()
    optimizer = optim.Adam(p, lr=0.1)
    set_gradients(p, 1)
    optimizer.step()
    good = through_json(optimizer.state_dict())
    for change, message in [
        (lambda s: s["param_groups"][0]["params"].pop(), r"groups of \[5\] parameters, got \[4\]"),
        (lambda s: s["state"]["4"].update(exp_avg=np.zeros(3)), r"'exp_avg' of shape \(2, 3, 4\), got \(3,\)"),
        (lambda s: s["state"]["4"].update(momentum=np.zeros(3)), "state of the names step, exp_avg.*got 'momentum'"),
        (lambda s: s["param_groups"][0].update(lr=-1.0), "expected lr"),
    ]:
        bad = through_json(good)
        bad["param_groups"][0]["eps"] = 1.0
        change(bad)
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(bad)
        assert optimizer.param_groups[0]["eps"] == 1e-8
        assert optimizer.param_groups[0]["lr"] == 0.1


# ---- clipping


def test_nan_does_not_outlive_its_step():
    """A scaling by NaN must not stay behind in the gaps of the buffer."""
    p = parameters(np.float32)
    optimizer = optim.SGD(p)
    set_gradients(p, 1)
    p[1].grad.array[1] = np.nan
    optimizer.step()  # brings the gradients into the buffer
    for q in p:
        q.grad = Tensor(q.grad_buffer)
        q.grad.array = q.grad_buffer
    assert np.isnan(clip_grad_norm_(p, 1.0).item())
    assert all(np.isnan(q.grad.array).all() for q in p)
    for q in p:
        q.grad.array[...] = 1.0
    assert clip_grad_norm_(p, 1.0).item() == pytest.approx(np.sqrt(sum(q.size for q in p)), rel=1e-6)


def test_clipping_of_nothing_and_of_what_is_not_finite():
    p = parameters()
    assert clip_grad_norm_(p, 1.0).item() == 0.0
    assert clip_grad_norm_([], 1.0).item() == 0.0
    set_gradients(p, 1)
    p[0].grad.array[0, 0] = np.inf
    before = [q.grad.array.copy() for q in p]
    with pytest.raises(RuntimeError, match="finite norm, got inf"):
        clip_grad_norm_(p, 1.0, error_if_nonfinite=True)
    assert_equal([q.grad.array for q in p], before)
    with pytest.raises(ValueError, match=r"^clip_grad_norm_: expected max_norm"):
        clip_grad_norm_(p, -1.0)
    with pytest.raises(ValueError, match=r"^clip_grad_value_: expected clip_value"):
        clip_grad_value_(p, float("nan"))


def test_norm_of_half_precision_gradients_may_pass_their_range():
    p = Parameter(np.zeros(100_000, np.float16))
    p.grad = Tensor(np.full(100_000, 1000, np.float16))
    assert clip_grad_norm_(p, 1.0).item() == pytest.approx(1000 * np.sqrt(1e5), rel=1e-6)
    assert p.grad.array[0] == pytest.approx(np.sqrt(1e-5), rel=1e-3)


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 2.5, np.inf])
def test_a_norm_that_stays_on_its_device_is_the_one_that_the_host_reads(norm_type):
    rng = np.random.default_rng(0)
    for kinds in (["f4"], ["f4", "f2"], ["f4", "f8", "f4"]):
        gradients = [rng.standard_normal(size).astype(kind) for size, kind in zip((70, 3, 20_000), kinds)]
        norm = total_norm_on_device(gradients, norm_type)
        assert norm.shape == ()
        assert norm.dtype == (np.float64 if "f8" in kinds else np.float32)
        assert float(norm) == pytest.approx(total_norm(gradients, norm_type), rel=1e-7)


def test_gradients_that_are_not_contiguous_are_clipped_in_place():
    p = Parameter(np.zeros((3, 4)))
    p.grad = Tensor(np.ones((4, 3)).T)
    array = p.grad.array
    clip_grad_norm_([p], 1.0)
    assert p.grad.array is array
    np.testing.assert_allclose(array, 12**-0.5, rtol=1e-5)


# ---- the kernels


def test_kernel_steps_in_place_and_into_other_arrays():
    rng = np.random.default_rng(0)
    p, g, m = (rng.standard_normal(33).astype(np.float32) for _ in range(3))
    (new_p, new_m), _ = kernels.sgd.forward(p, g, m, lr=0.1, momentum=0.9)
    other = np.empty_like(p), np.empty_like(m)
    kernels.sgd.forward(p, g, m, lr=0.1, momentum=0.9, out=other)
    output, _ = kernels.sgd.forward(p, g, m, lr=0.1, momentum=0.9, out=(p, m))
    assert output[0] is p
    assert_equal([p, m, *other], [new_p, new_m, new_p, new_m])
    for out, error, message in [
        (p, ValueError, "^sgd: expected out as 2 arrays, got 1"),
        ((p, np.empty(4, np.float32)), ValueError, r"out as writable C-contiguous arrays of shape \(33,\)"),
        ((p, m.astype(np.float64)), TypeError, "out as NumPy arrays of type float32, got float64"),
        ((p, np.empty(66, np.float32)[::2]), ValueError, "C-contiguous"),
    ]:
        with pytest.raises(error, match=message):
            kernels.sgd.forward(p, g, m, lr=0.1, momentum=0.9, out=out)
