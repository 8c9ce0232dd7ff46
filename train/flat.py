"""Parameters of one type and device in one flat buffer, with their gradients and their optimizer's state in others.

`parameter.array` is a view of the flat buffer, and `parameter.grad_buffer`, where the tape puts a gradient, a view of
the gradients'. So a step of an optimizer is one kernel call, and clearing the gradients costs nothing: the first
gradient after `zero_grad` overwrites the last.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..kernels import accumulate
from ..kernels.device import device_of
from ..kernels.optimizer import flat
from ..layers.tensor import Parameter, Tensor


class FlatParameters:
    """The flat buffers of some parameters.

    Args:
        parameters: one or more, of one type and device. Their arrays and gradients move into the buffers.
        counters: per parameter, the numbers (such as the count of its steps) that its state is made of besides arrays.

    Attributes:
        array, gradient: the flat buffers.
        state: name -> flat buffer.
    """

    def __init__(self, parameters: list[Parameter], counters: list[dict]):
        self.parameters, self.counters = parameters, counters
        self.array, self.views = flat.pack([p.array for p in parameters])
        self.gradient = flat.filled_like(self.array, 0)
        self.gradient_views = flat.views_of(self.gradient, self.views)
        self.state: dict[str, object] = {}
        for index in range(len(parameters)):
            self._move_in(index)

    def fits(self) -> bool:
        """Whether all parameters still have the type, shape and device that the buffers were made for."""
        return all(
            p.array is view or (p.shape == view.shape and p.dtype == view.dtype and p.device == device_of(view))
            for p, view in zip(self.parameters, self.views)
        )

    def reclaim(self) -> None:
        """Takes parameters back into the buffers whose arrays were replaced: by the user, or by another optimizer."""
        for index, (parameter, view) in enumerate(zip(self.parameters, self.views)):
            if parameter.array is not view:
                accumulate.copy_into(view, parameter.array)
                self._move_in(index)

    def runs(self) -> Iterator[tuple[int, int]]:
        """(first, last) of each longest run of neighbours that have a gradient and equal counters. Brings gradients
        that lie elsewhere into the buffer.

        Raises:
            TypeError, ValueError: a gradient is not of its parameter's type and shape.
        """
        first = None
        for index in range(len(self.parameters)):
            has_gradient = self._gather(index)
            if first is not None and not (has_gradient and self._count_alike(first, index)):
                yield first, index - 1
                first = None
            if has_gradient and first is None:
                first = index
        if first is not None:
            yield first, len(self.parameters) - 1

    def is_whole(self) -> bool:
        """Whether all parameters lie here with their gradients, are to be stepped, and have one count: as after a step
        of all."""
        first = self.counters[0]
        for parameter, view, place, counters in zip(self.parameters, self.views, self.gradient_views, self.counters):
            gradient = parameter.grad
            if (
                gradient is None
                or gradient.array is not place
                or parameter.array is not view
                or counters is not first
                or not parameter.requires_grad
            ):
                return False
        return True

    def count(self, counters: dict, first: int, last: int) -> None:
        """Parameters first, ..., last have been stepped and count this."""
        self.counters[first : last + 1] = [counters] * (last + 1 - first)

    def _count_alike(self, first: int, second: int) -> bool:
        """Whether two parameters have equal counters: after a step of both they share one."""
        one, other = self.counters[first], self.counters[second]
        return one is other or one == other

    def stretch(self, buffer, first: int, last: int):
        """The part of one of the buffers that belongs to parameters first, ..., last."""
        return flat.stretch(buffer, self.views, first, last)

    def state_buffer(self, name: str, initial: float):
        """The flat buffer of a kind of state, made with its initial value when first asked for."""
        if name not in self.state:
            self.state[name] = flat.filled_like(self.array, initial)
        return self.state[name]

    def state_views(self, name: str) -> list:
        """A view per parameter of a kind of state."""
        return flat.views_of(self.state[name], self.views)

    def _move_in(self, index: int) -> None:
        parameter = self.parameters[index]
        parameter.array = self.views[index]
        parameter.grad_buffer = self.gradient_views[index]
        if parameter.grad is not None and self._gather(index):
            parameter.grad = Tensor(self.gradient_views[index])

    def _gather(self, index: int) -> bool:
        """Whether the parameter is to be stepped; its gradient is in the buffer then."""
        parameter, view = self.parameters[index], self.gradient_views[index]
        gradient = parameter.grad
        if gradient is None or not parameter.requires_grad:
            return False
        if gradient.array is not view:
            if gradient.dtype != view.dtype or gradient.device != device_of(view):
                raise TypeError(
                    f"optimizer: expected the gradient of a parameter as {view.dtype} on {device_of(view)}, "
                    f"got {gradient.dtype} on {gradient.device}"
                )
            if gradient.shape != view.shape:
                raise ValueError(
                    f"optimizer: expected the gradient of a parameter of shape {view.shape}, got {gradient.shape}"
                )
            accumulate.copy_into(view, gradient.array)
        return True
