"""Functions with a gradient of one's own."""

import numpy as np
import pytest

import ranvier as rv


class SinCos(rv.Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.save_for_backward(x)
        ctx.factor = factor
        assert not rv.is_grad_enabled()
        return (x * factor).sin(), (x * factor).cos()

    @staticmethod
    def backward(ctx, grad_sin, grad_cos):
        (x,) = ctx.saved_tensors
        assert ctx.needs_input_grad == (True, False)
        return ctx.factor * (grad_sin * (x * ctx.factor).cos() - grad_cos * (x * ctx.factor).sin()), None


def test_the_gradient_is_the_one_that_is_given():
    x = rv.tensor(np.linspace(-2, 2, 5), requires_grad=True)
    sin, cos = SinCos.apply(x, 3.0)
    (sin * 2 + cos).sum().backward(retain_graph=True)
    expected = 6 * np.cos(3 * x.numpy()) - 3 * np.sin(3 * x.numpy())
    np.testing.assert_allclose(x.grad.numpy(), expected)
    x.grad = None
    sin.sum().backward()  # nothing came for the cosine: zeros
    np.testing.assert_allclose(x.grad.numpy(), 3 * np.cos(3 * x.numpy()))


def test_a_captured_step_with_one_gives_the_same_bits():
    class Straight(rv.Function):
        @staticmethod
        def forward(ctx, x):
            return x.sign()

        @staticmethod
        def backward(ctx, grad):
            return grad.clamp(-0.1, 0.1)

    def losses(wrap):
        rv.seed(0)
        model = rv.Dense(4, 3)
        optimizer = rv.optim.SGD(model.parameters(), lr=0.1)

        @wrap
        def step(x):
            loss = (Straight.apply(model(x)) - 0.5).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        x = rv.randn(8, 4)
        return [step(x).item() for _ in range(6)], model.weight.numpy()

    plain, captured = losses(lambda step: step), losses(rv.capture)
    assert plain[0] == captured[0]
    np.testing.assert_array_equal(plain[1], captured[1])


@pytest.mark.parametrize(
    ("forward", "backward", "error", "message"),
    [
        (lambda x: x.numpy(), lambda g: g, TypeError, "Bad: expected forward to return tensors, got ndarray"),
        (lambda x: x * 1, lambda g: (g, g), ValueError, "expected backward to return 1 gradients, .* got 2"),
        (lambda x: x * 1, lambda g: g[:1], ValueError, r"gradient 0 as a tensor of float32 \(3,\), got float32 \(1,\)"),
        (lambda x: x * 1, lambda g: 1.0, ValueError, r"gradient 0 as a tensor of float32 \(3,\), got float"),
    ],
)
def test_what_is_no_gradient_is_refused(forward, backward, error, message):
    class Bad(rv.Function):
        @staticmethod
        def forward(ctx, x):
            return forward(x)

        @staticmethod
        def backward(ctx, grad):
            return backward(grad)

    with pytest.raises(error, match=message):
        Bad.apply(rv.ones(3, requires_grad=True)).sum().backward()
    with pytest.raises(TypeError, match="Function: expected a subclass"):
        rv.Function.apply(rv.ones(3))
