"""Schedules of learning rates: they go on where they were, end, and refuse what they cannot do. That their values are
right: tests/judges."""

import json

import numpy as np
import pytest

from ranvier.layers import Parameter
from ranvier.train import optim


def parameters():
    return [Parameter(np.ones(3))]


@pytest.mark.parametrize(
    "make",
    [
        lambda o: optim.StepLR(o, 3),
        lambda o: optim.MultiStepLR(o, [2, 5]),
        lambda o: optim.OneCycleLR(o, 0.3, 20),
        lambda o: optim.CosineAnnealingWarmRestarts(o, 3, 2),
        lambda o: optim.lr_scheduler.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
        lambda o: optim.SequentialLR(o, [optim.LinearLR(o), optim.CosineAnnealingLR(o, 9)], [4]),
    ],
)
def test_schedules_go_on_where_they_were(make):
    optimizer, resumed = (optim.Adam(parameters(), lr=0.1) for _ in range(2))
    schedule, other = make(optimizer), make(resumed)
    for _ in range(7):
        schedule.step()
    for target, source in ((resumed, optimizer), (other, schedule)):
        target.load_state_dict(json.loads(json.dumps(source.state_dict())))
    for _ in range(8):
        assert resumed.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
        assert resumed.param_groups[0]["betas"] == optimizer.param_groups[0]["betas"]
        schedule.step()
        other.step()


def test_plateau_goes_on_where_it_was():
    optimizer = optim.SGD(parameters(), lr=0.1)
    schedule, other = (optim.ReduceLROnPlateau(optimizer, patience=1) for _ in range(2))
    schedule.step(1.0)
    schedule.step(2.0)
    other.load_state_dict(json.loads(json.dumps(schedule.state_dict())))
    other.step(2.0)
    assert other.get_last_lr() == [pytest.approx(0.01)]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda o: optim.StepLR(o, 0), ValueError, "^StepLR: expected step_size as an integer of 1"),
        (lambda o: optim.StepLR("SGD", 1), TypeError, "^StepLR: expected an optimizer, got str"),
        (lambda o: optim.StepLR(o, 1, last_epoch=3), ValueError, "^StepLR: expected 'initial_lr' in group 0"),
        (lambda o: optim.LinearLR(o, start_factor=0.0), ValueError, r"^LinearLR: expected start_factor in \(0, 1\]"),
        (lambda o: optim.OneCycleLR(o, 0.1), ValueError, "^OneCycleLR: expected total_steps"),
        (lambda o: optim.OneCycleLR(o, [0.1, 0.2], 9), ValueError, "max_lr for 1 groups, got 2"),
        (lambda o: optim.OneCycleLR(optim.Adagrad(parameters()), 0.1, 9), ValueError, "with momentum or betas"),
        (lambda o: optim.OneCycleLR(o, 0.1, 9, anneal_strategy="up"), ValueError, "one of 'cos', 'linear'"),
        (lambda o: optim.SequentialLR(o, [optim.StepLR(o, 1)], [1]), ValueError, "expected 0 milestones"),
        (lambda o: optim.ReduceLROnPlateau(o, factor=1.0), ValueError, r"factor in \[0, 1\)"),
    ],
)
def test_bad_schedules_are_refused_with_a_reason(call, error, message):
    with pytest.raises(error, match=message):
        call(optim.SGD(parameters()))


def test_one_cycle_ends():
    schedule = optim.OneCycleLR(optim.SGD(parameters()), 0.1, 5)
    for _ in range(5):
        schedule.step()
    with pytest.raises(ValueError, match="at most 5 steps"):
        schedule.step()
