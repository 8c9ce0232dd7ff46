"""Functions with a gradient of your own, written with tensors: what PyTorch calls torch.autograd.Function."""

from __future__ import annotations

from ..kernels import accumulate
from .tensor import Tensor, no_grad, record

__all__ = ["Function"]


class Context:
    """What a function's forward hands to its backward. Any attribute may be set on it.

    Attributes:
        saved_tensors: what `save_for_backward` was given.
        needs_input_grad: for each input whether a gradient is asked for.
    """

    def __init__(self, needs_input_grad: tuple[bool, ...]):
        self.needs_input_grad = needs_input_grad
        self.saved_tensors: tuple = ()

    def save_for_backward(self, *tensors) -> None:
        """Keeps tensors, or None among them, until the backward pass has run."""
        self.saved_tensors = tensors


class Function:
    """A function whose gradient is given, not derived. It is called by `apply`, and has no instances:

        class Clipped(rv.Function):
            @staticmethod
            def forward(ctx, x):
                return x.clamp(-1, 1)

            @staticmethod
            def backward(ctx, grad):  # straight through
                return grad

        y = Clipped.apply(x)

    `forward(ctx, *inputs)` returns a tensor or a tuple of tensors; what it does is not recorded.
    `backward(ctx, *grads)` takes a gradient for each of them (zeros where none came) and returns one for each input,
    None for what is no tensor or needs none.
    """

    @staticmethod
    def forward(ctx, *inputs):
        """What the function computes."""
        raise TypeError("Function: expected a subclass with the static methods forward() and backward()")

    @staticmethod
    def backward(ctx, *grads):
        """The gradients of the inputs."""
        raise TypeError("Function: expected a subclass with the static methods forward() and backward()")

    @classmethod
    def apply(cls, *inputs):
        """Calls `forward`, and `backward` when gradients come back.

        Raises:
            TypeError: forward returns anything but tensors.
            ValueError: backward returns too few or too many gradients, or one that is not like its input.
        """
        context = Context(tuple(isinstance(x, Tensor) and x.requires_grad for x in inputs))
        with no_grad():
            output = cls.forward(context, *inputs)
        results = output if isinstance(output, tuple) else (output,)
        for result in results:
            if not isinstance(result, Tensor):
                raise TypeError(f"{cls.__name__}: expected forward to return tensors, got {type(result).__qualname__}")
        saved = tuple(getattr(x, "array", x) for x in context.saved_tensors)
        context.saved_tensors = ()  # the node holds them, and frees them when it has run
        inputs_like = [(x.shape, x.dtype) if isinstance(x, Tensor) else None for x in inputs]
        outputs_like = [accumulate.empty_like(x.array, (0,)) for x in results], [x.shape for x in results]

        def backward(saved, grad, needs):
            context.saved_tensors = tuple(None if x is None else Tensor(x) for x in saved)
            found = cls._gradients(context, grad, inputs_like, outputs_like)
            context.saved_tensors = ()
            return found

        arrays = tuple(result.array for result in results)
        return record(cls.__name__, backward, saved, inputs, arrays if isinstance(output, tuple) else arrays[0])

    @classmethod
    def _gradients(cls, context, grad, inputs_like, outputs_like) -> list:
        grads = grad if isinstance(grad, tuple) else (grad,)
        grads = [_zeros(*like) if g is None else g for g, *like in zip(grads, *outputs_like)]
        with no_grad():
            found = cls.backward(context, *map(Tensor, grads))
        found = found if isinstance(found, tuple) else (found,)
        if len(found) != len(inputs_like):
            raise ValueError(
                f"{cls.__name__}: expected backward to return {len(inputs_like)} gradients, one for each input of "
                f"forward, got {len(found)}"
            )
        for index, (gradient, like) in enumerate(zip(found, inputs_like)):
            if gradient is None or like is None:
                continue
            if not isinstance(gradient, Tensor) or (gradient.shape, gradient.dtype) != like:
                actual = f"{gradient.dtype} {gradient.shape}" if hasattr(gradient, "dtype") else type(gradient).__name__
                raise ValueError(
                    f"{cls.__name__}: expected backward to return gradient {index} as a tensor of {like[1]} {like[0]}, "
                    f"got {actual}"
                )
        return [
            None if gradient is None or like is None else gradient.array for gradient, like in zip(found, inputs_like)
        ]


def _zeros(like, shape):
    zeros = accumulate.empty_like(like, shape)
    accumulate.fill(zeros, 0)
    return zeros
