"""Every optimizer, option and schedule against torch.optim: the same parameters, the same gradients, the same steps."""

import itertools

import numpy as np
import pytest

from ranvier.kernels import accumulate
from ranvier.kernels.device import to_device
from ranvier.layers import Parameter, Tensor
from ranvier.train import optim
from ranvier.train.clip import clip_grad_norm_, clip_grad_value_

torch = pytest.importorskip("torch", reason="the extra `judges` brings PyTorch")
pytestmark = pytest.mark.judge

SHAPES = [(5, 7), (3,), (), (2, 3, 4), (33,)]
CASES = {
    "SGD": [
        {},
        {"lr": 0.1, "momentum": 0.9},
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
        {"lr": 0.1, "weight_decay": 0.1, "maximize": True},
    ],
    "Adam": [
        {},
        {"lr": 0.1, "betas": (0.5, 0.8), "eps": 1e-3},
        {"lr": 0.1, "weight_decay": 0.1, "amsgrad": True},
        {"lr": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True},
    ],
    "AdamW": [{}, {"lr": 0.1, "amsgrad": True, "maximize": True}, {"lr": 0.1, "weight_decay": 0.3}],
    "NAdam": [
        {},
        {"lr": 0.1, "weight_decay": 0.1, "momentum_decay": 0.02},
        {"lr": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True},
    ],
    "RAdam": [
        {},
        {"lr": 0.1, "weight_decay": 0.1, "betas": (0.8, 0.95)},
        {"lr": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True},
    ],
    "Adamax": [{}, {"lr": 0.1, "weight_decay": 0.1, "maximize": True}],
    "RMSprop": [
        {},
        {"lr": 0.01, "alpha": 0.9, "centered": True},
        {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1},
        {"lr": 0.01, "momentum": 0.9, "centered": True, "maximize": True},
    ],
    "Adagrad": [
        {},
        {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1},
        {"lr": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-3, "maximize": True},
    ],
    "Adadelta": [{}, {"lr": 0.5, "rho": 0.7, "weight_decay": 0.1, "maximize": True}],
}
OPTIMIZERS = [pytest.param(name, o, id=f"{name}-{i}") for name, options in CASES.items() for i, o in enumerate(options)]


@pytest.fixture(autouse=True)
def _exact_scalars():
    """torch keeps NAdam's product of momenta in its default type, which would be float32."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def parameters(dtype, seed=0):
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(rng.standard_normal(shape)).astype(dtype) for shape in SHAPES]
    return [Parameter(a.copy()) for a in arrays], [torch.nn.Parameter(torch.from_numpy(a.copy())) for a in arrays]


def set_gradients(ours, theirs, rng, present=lambda index: True):
    for index, (p, q) in enumerate(zip(ours, theirs)):
        gradient = np.asarray(rng.standard_normal(p.shape)).astype(p.dtype)
        p.grad = Tensor(gradient) if present(index) else None
        q.grad = torch.from_numpy(gradient.copy()) if present(index) else None


def assert_same(ours, theirs, dtype):
    rtol, atol = (1e-10, 1e-12) if dtype == np.float64 else (3e-5, 3e-6)
    for p, q in zip(ours, theirs):
        np.testing.assert_allclose(p.numpy(), q.detach().numpy(), rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("name", "options"), OPTIMIZERS)
def test_twenty_steps(name, options, dtype):
    ours, theirs = parameters(dtype)
    optimizer, judge = getattr(optim, name)(ours, **options), getattr(torch.optim, name)(theirs, **options)
    rng = np.random.default_rng(1)
    for _ in range(20):
        set_gradients(ours, theirs, rng)
        optimizer.step()
        judge.step()
    assert_same(ours, theirs, dtype)


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS)
def test_gradients_that_come_and_go(name, options):
    """Parameters count their own steps, and those without a gradient stay."""
    ours, theirs = parameters(np.float64)
    optimizer, judge = getattr(optim, name)(ours, **options), getattr(torch.optim, name)(theirs, **options)
    rng, pattern = np.random.default_rng(1), np.random.default_rng(2)
    for _ in range(20):
        present = pattern.random(len(ours)) < 0.6
        set_gradients(ours, theirs, rng, lambda index: present[index])  # noqa: B023
        optimizer.step()
        judge.step()
    assert_same(ours, theirs, np.float64)


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS)
def test_state_of_torch_is_taken_up(name, options):
    ours, theirs = parameters(np.float64)
    optimizer, judge = getattr(optim, name)(ours, **options), getattr(torch.optim, name)(theirs, **options)
    rng = np.random.default_rng(1)
    for step in range(10):
        set_gradients(ours, theirs, rng)
        judge.step()
        if step == 4:
            optimizer.load_state_dict(judge.state_dict())
            for p, q in zip(ours, theirs):
                accumulate.copy_into(p.array, to_device(q.detach().numpy(), p.device))
        elif step > 4:
            optimizer.step()
    assert_same(ours, theirs, np.float64)


def test_groups_with_options_of_their_own():
    ours, theirs = parameters(np.float64)

    def groups(p):
        return [{"params": p[:2], "lr": 0.1}, {"params": p[2], "weight_decay": 0.5}]

    optimizer, judge = optim.AdamW(groups(ours), lr=0.01), torch.optim.AdamW(groups(theirs), lr=0.01)
    optimizer.add_param_group({"params": ours[3:], "betas": (0.5, 0.6)})
    judge.add_param_group({"params": theirs[3:], "betas": (0.5, 0.6)})
    rng = np.random.default_rng(1)
    for step in range(20):
        set_gradients(ours, theirs, rng)
        optimizer.param_groups[0]["lr"] = judge.param_groups[0]["lr"] = 0.1 / (1 + step)
        optimizer.step()
        judge.step()
    assert_same(ours, theirs, np.float64)


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, float("inf")])
@pytest.mark.parametrize("max_norm", [0.5, 1e6])
@pytest.mark.parametrize("packed", [True, False])
def test_clip_grad_norm(norm_type, max_norm, packed):
    ours, theirs = parameters(np.float64)
    rng = np.random.default_rng(1)
    set_gradients(ours, theirs, rng, lambda index: index != 1)
    if packed:
        optim.SGD(ours)
    norm = clip_grad_norm_(iter(ours), max_norm, norm_type)
    judged = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
    np.testing.assert_allclose(norm.item(), judged.item(), rtol=1e-12)
    for p, q in zip(ours, theirs):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-12)


@pytest.mark.parametrize("packed", [True, False])
def test_clip_grad_value(packed):
    ours, theirs = parameters(np.float32)
    set_gradients(ours, theirs, np.random.default_rng(1))
    if packed:
        optim.SGD(ours)
    clip_grad_value_(ours, 0.4)
    torch.nn.utils.clip_grad_value_(theirs, 0.4)
    for p, q in zip(ours, theirs):
        np.testing.assert_array_equal(p.grad.numpy(), q.grad.numpy())


SCHEDULES = {
    "StepLR": [{"step_size": 7}, {"step_size": 3, "gamma": 0.5}],
    "MultiStepLR": [{"milestones": [3, 11, 11, 20]}, {"milestones": [20, 5], "gamma": 0.3}],
    "ExponentialLR": [{"gamma": 0.9}],
    "ConstantLR": [{}, {"factor": 0.2, "total_iters": 9}],
    "LinearLR": [{}, {"start_factor": 0.1, "end_factor": 0.7, "total_iters": 13}],
    "PolynomialLR": [{"total_iters": 20}, {"total_iters": 40, "power": 2.5}],
    "CosineAnnealingLR": [{"T_max": 40}, {"T_max": 9, "eta_min": 0.01}],
    "CosineAnnealingWarmRestarts": [{"T_0": 7}, {"T_0": 3, "T_mult": 2, "eta_min": 0.01}],
    "LambdaLR": [{"lr_lambda": lambda e: 0.9**e}, {"lr_lambda": [lambda e: 1 / (1 + e), lambda e: e]}],
    "OneCycleLR": [
        {"max_lr": 0.3, "total_steps": 40},
        {"max_lr": [0.3, 0.2], "epochs": 4, "steps_per_epoch": 10, "anneal_strategy": "linear", "pct_start": 0.4},
        {"max_lr": 0.3, "total_steps": 40, "three_phase": True, "div_factor": 10.0, "final_div_factor": 100.0},
        {"max_lr": 0.3, "total_steps": 40, "cycle_momentum": False},
    ],
}


def two_optimizers(name="SGD"):
    ours, theirs = parameters(np.float64)

    def groups(p):
        return [{"params": p[:2], "lr": 0.1}, {"params": p[2:], "lr": 0.02}]

    return getattr(optim, name)(groups(ours)), getattr(torch.optim, name)(groups(theirs))


def compare_rates(optimizer, judge, schedule, judging, steps=38):
    for step in range(steps):
        for group, judged in zip(optimizer.param_groups, judge.param_groups):
            np.testing.assert_allclose(group["lr"], judged["lr"], rtol=1e-9, atol=1e-15, err_msg=f"step {step}")
            for key in ("momentum", "betas"):
                if key in group:
                    np.testing.assert_allclose(group[key], judged[key], rtol=1e-9, err_msg=f"step {step}")
        np.testing.assert_allclose(schedule.get_last_lr(), judging.get_last_lr(), rtol=1e-9, atol=1e-15)
        judge.step()
        schedule.step()
        judging.step()


@pytest.mark.parametrize("optimizer_name", ["SGD", "Adam"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [pytest.param(name, o, id=f"{name}-{i}") for name, options in SCHEDULES.items() for i, o in enumerate(options)],
)
def test_schedules(name, arguments, optimizer_name):
    optimizer, judge = two_optimizers(optimizer_name)
    schedule = getattr(optim.lr_scheduler, name)(optimizer, **arguments)
    compare_rates(optimizer, judge, schedule, getattr(torch.optim.lr_scheduler, name)(judge, **arguments))


@pytest.mark.parametrize("after", ["CosineAnnealingLR", "ExponentialLR", "StepLR", "CosineAnnealingWarmRestarts"])
def test_warm_up_and_then(after):
    optimizer, judge = two_optimizers()
    built = []
    for module, of in ((optim.lr_scheduler, optimizer), (torch.optim.lr_scheduler, judge)):
        warm_up = module.LinearLR(of, start_factor=0.01, total_iters=5)
        main = getattr(module, after)(of, **SCHEDULES[after][0])
        last = module.ConstantLR(of, factor=0.1, total_iters=100)
        built.append(module.SequentialLR(of, [warm_up, main, last], milestones=[5, 30]))
    compare_rates(optimizer, judge, *built)


@pytest.mark.parametrize(
    ("mode", "threshold_mode", "cooldown", "min_lr"),
    list(itertools.product(["min", "max"], ["rel", "abs"], [0, 3], [0, [0.01, 0.001]])),
)
def test_reduce_on_plateau(mode, threshold_mode, cooldown, min_lr):
    optimizer, judge = two_optimizers()
    arguments = {
        "mode": mode,
        "threshold_mode": threshold_mode,
        "cooldown": cooldown,
        "min_lr": min_lr,
        "patience": 2,
        "factor": 0.5,
        "threshold": 0.05,
    }
    schedule = optim.ReduceLROnPlateau(optimizer, **arguments)
    judging = torch.optim.lr_scheduler.ReduceLROnPlateau(judge, **arguments)
    for value in np.random.default_rng(3).standard_normal(60):
        schedule.step(value)
        judging.step(value)
        assert schedule.get_last_lr() == pytest.approx(judging.get_last_lr(), rel=1e-12)


def test_warm_restarts_at_fractions_of_an_epoch():
    optimizer, judge = two_optimizers()
    schedule = optim.CosineAnnealingWarmRestarts(optimizer, T_0=3, T_mult=2)
    judging = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(judge, T_0=3, T_mult=2)
    for epoch in np.arange(0.1, 30, 0.7):
        schedule.step(float(epoch))
        judging.step(float(epoch))
        assert schedule.get_last_lr() == pytest.approx(judging.get_last_lr(), rel=1e-9)
