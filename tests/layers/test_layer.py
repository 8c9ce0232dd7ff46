"""The base of layers, and the containers: registration, names, state, modes."""

from collections import OrderedDict

import numpy as np
import pytest

import ranvier as rv


class Net(rv.Layer):
    def __init__(self):
        super().__init__()
        self.first = rv.Dense(3, 4)
        self.second = rv.Dense(4, 2, bias=False)
        self.scale = rv.Parameter(np.ones(2, np.float32))
        self.register_buffer("seen", rv.zeros(1, dtype=np.int64))
        self.register_buffer("scratch", rv.zeros(1), persistent=False)

    def forward(self, x):
        return self.second(self.first(x)) * self.scale


def test_registration_gives_names():
    net = Net()
    assert list(net.state_dict()) == ["scale", "seen", "first.weight", "first.bias", "second.weight"]
    assert [name for name, _ in net.named_parameters()] == ["scale", "first.weight", "first.bias", "second.weight"]
    assert [name for name, _ in net.named_modules()] == ["", "first", "second"]
    assert [name for name, _ in net.named_buffers()] == ["seen", "scratch"]
    assert [name for name, _ in net.named_parameters(recurse=False)] == ["scale"]


def test_assignment_replaces_and_deletion_removes():
    net = Net()
    net.second = rv.Identity()
    assert "second.weight" not in net.state_dict()
    del net.scale
    assert "scale" not in net.state_dict()
    with pytest.raises(AttributeError, match="'scale'"):
        _ = net.scale
    net.first.bias = None
    assert "first.bias" not in net.state_dict()
    with pytest.raises(TypeError, match="expected a Parameter or None"):
        net.first.weight = rv.zeros(4, 3)
    net.plain = 3
    assert net.plain == 3
    del net.plain
    with pytest.raises(AttributeError, match="'plain'"):
        del net.plain
    net.seen = rv.ones(2)
    assert net.seen is dict(net.named_buffers())["seen"]
    del net.seen
    assert not hasattr(net, "seen")


def test_assignment_before_super_init_is_refused():
    class Hasty(rv.Layer):
        def __init__(self):
            self.weight = rv.Parameter(np.zeros(1))

    with pytest.raises(RuntimeError, match=r"super\(\).__init__\(\)"):
        Hasty()


def test_a_shared_parameter_counts_once_and_is_saved_under_each_name():
    net = Net()
    net.tied = net.first
    assert len(list(net.parameters())) == 4
    assert len(list(net.modules())) == 3
    assert {"first.weight", "tied.weight"} <= set(net.state_dict())
    net.second.weight = rv.Parameter(np.zeros((2, 4), np.float32))
    net.again = net.second.weight
    assert len(list(net.parameters())) == 4


def test_state_round_trip():
    net, other = Net(), Net()
    other.load_state_dict(net.state_dict())
    for (name, mine), theirs in zip(net.state_dict().items(), other.state_dict().values()):
        np.testing.assert_array_equal(mine.array, theirs.array, err_msg=name)
        assert not np.shares_memory(mine.array, theirs.array)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("scale"), "missing: scale; unknown: none"),
        (lambda state: state.update(more=np.zeros(1)), "missing: none; unknown: more"),
        (lambda state: state.update({"second.weight": np.zeros((4, 2))}), r"second.weight of shape \(2, 4\)"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change, message):
    net = Net()
    before = {name: tensor.array.copy() for name, tensor in net.state_dict().items()}
    state = {name: np.full_like(array, 7) for name, array in before.items()}
    change(state)
    with pytest.raises(ValueError, match=message):
        net.load_state_dict(state)
    for name, tensor in net.state_dict().items():
        np.testing.assert_array_equal(tensor.array, before[name])


def test_loading_in_part():
    net = Net()
    net.load_state_dict({"scale": np.array([3.0, 4.0]), "unknown": np.zeros(2)}, strict=False)
    np.testing.assert_array_equal(net.scale.array, [3, 4])
    assert net.scale.dtype == np.float32


def test_to_changes_floats_only_and_in_place():
    net = Net()
    weight = net.first.weight
    assert net.to(dtype=np.float64) is net
    assert net.first.weight is weight
    assert weight.dtype == np.float64
    assert net.seen.dtype == np.int64
    with pytest.raises(TypeError, match="floating-point"):
        net.to(dtype=np.int32)


def test_modes_and_freezing_reach_everything():
    net = Net()
    assert net.eval() is net
    assert not any(layer.training for layer in net.modules())
    assert all(layer.training for layer in net.train().modules())
    net.requires_grad_(False)
    assert not net(rv.randn(2, 3)).requires_grad
    net.requires_grad_(True)
    net(rv.randn(2, 3)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())
    visited = []
    net.apply(visited.append)
    assert visited == [net.first, net.second, net]


def test_repr_shows_the_tree():
    assert repr(rv.Sequential(rv.Dense(2, 3), rv.Flatten())) == (
        "Sequential(\n  (0): Dense(2, 3, bias=True)\n  (1): Flatten(start_dim=1, end_dim=-1)\n)"
    )


# ---- containers


def test_sequential_calls_in_order_and_is_a_list():
    model = rv.Sequential(rv.Dense(3, 4), rv.Dense(4, 5), rv.Dense(5, 2))
    x = rv.randn(2, 3)
    np.testing.assert_array_equal(model(x).array, model[2](model[1](model[0](x))).array)
    assert len(model) == 3
    assert model[-1] is list(model)[2]
    assert next(iter(model.state_dict())) == "0.weight"
    part = model[1:]
    assert isinstance(part, rv.Sequential)
    assert part[0] is model[1]
    assert next(iter(part.state_dict())) == "1.weight"
    model.append(rv.Identity()).insert(0, rv.Identity())
    assert next(iter(model.state_dict())) == "1.weight"
    del model[0]
    assert next(iter(model.state_dict())) == "0.weight"
    model[1] = rv.Identity()
    assert "1.weight" not in model.state_dict()
    for index in (4, -5):
        with pytest.raises(IndexError, match="expected an index below 4"):
            model[index]
    with pytest.raises(TypeError, match="expected layers, got int"):
        rv.Sequential(3)


def test_sequential_with_names():
    model = rv.Sequential(OrderedDict(hidden=rv.Dense(3, 4), out=rv.Dense(4, 2)))
    assert list(model.state_dict()) == ["hidden.weight", "hidden.bias", "out.weight", "out.bias"]
    assert model[1] is model.out
    assert rv.Sequential()(3) == 3


def test_layer_list_and_dict():
    layers = rv.ModuleList(rv.Dense(2, 2) for _ in range(3))
    assert len(layers) == 3
    assert isinstance(layers[:2], rv.LayerList)
    assert [name for name, _ in layers.named_parameters()][-1] == "2.bias"
    named = rv.LayerDict({"a": rv.Identity()})
    named["b"] = rv.Dense(1, 1)
    assert list(named) == ["a", "b"]
    assert "b" in named
    assert len(named) == 2
    assert [*named.keys()] == [name for name, _ in named.items()]
    assert next(iter(named.values())) is named["a"]
    del named["a"]
    assert list(named.state_dict()) == ["b.weight", "b.bias"]
    with pytest.raises(TypeError, match="expected a layer under a string"):
        named["c"] = 3


def test_shape_layers():
    x = rv.randn(2, 3, 4, 5)
    assert rv.Flatten()(x).shape == (2, 60)
    assert rv.Flatten(1, 2)(x).shape == (2, 12, 5)
    assert rv.Flatten()(rv.zeros(0, 3, 2)).shape == (0, 6)
    assert rv.Unflatten(1, (-1, 1))(x).shape == (2, 3, 1, 4, 5)
    assert rv.Identity(1, anything=2)(x) is x
    with pytest.raises(ValueError, match="expected sizes whose product is 3"):
        rv.Unflatten(1, (2, 2))(x)
    assert rv.ReflectionPad2d((1, 2, 3, 0))(x).shape == (2, 3, 7, 8)
    with pytest.raises(ValueError, match="expected 4 widths"):
        rv.ZeroPad2d((1, 2))
    with pytest.raises(ValueError, match="with 1 sizes"):
        rv.CircularPad1d(1)(x)


def test_moving_by_pytorchs_shorter_names():
    layer = rv.BatchNorm1d(2)
    for make, dtype in [("double", np.float64), ("half", np.float16), ("float", np.float32)]:
        assert getattr(layer, make)() is layer
        assert layer.weight.dtype == layer.running_mean.dtype == dtype
    assert layer.to(np.float64).cpu().to("float32").weight.dtype == np.float32
    assert layer.load_state_dict({"weight": np.ones(2)}, strict=False).missing_keys[0] == "bias"
    assert layer.load_state_dict(layer.state_dict() | {"x": 1}, strict=False).unexpected_keys == ["x"]
    with pytest.raises(TypeError, match=r"load_state_dict: expected state_dict as arrays by name, got str; rv.load"):
        layer.load_state_dict("weights.safetensors")
    layer(rv.randn(4, 2)).sum().backward()
    layer.zero_grad(set_to_none=False)
    assert layer.weight.grad.tolist() == [0, 0]
