"""Layers made of layers, and the two that only change shapes."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping

from . import functional
from .layer import Layer

__all__ = [
    "Sequential",
    "LayerList",
    "ModuleList",
    "LayerDict",
    "ModuleDict",
    "Identity",
    "Flatten",
    "Unflatten",
]


class _Numbered(Layer):
    """Layers in a row, named '0', '1', ...; Sequential also takes names of their own."""

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(list(self._layers.values()))

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self._part(list(self._layers.items())[index])
        return self._layers[self._name(index)]

    def __setitem__(self, index: int, layer: Layer) -> None:
        self._layers[self._name(index)] = self._checked(layer)

    def __delitem__(self, index: int | slice) -> None:
        names = list(self._layers)
        for name in names[index] if isinstance(index, slice) else [self._name(index)]:
            del self._layers[name]
        self._renumber()

    def append(self, layer: Layer):
        """Adds a layer at the end; returns the container."""
        self._layers[str(len(self))] = self._checked(layer)
        return self

    def extend(self, layers: Iterable[Layer]):
        """Adds layers at the end; returns the container."""
        for layer in layers:
            self.append(layer)
        return self

    def insert(self, index: int, layer: Layer):
        """Puts a layer before position `index`; returns the container."""
        layers = list(self._layers.values())
        layers.insert(index, self._checked(layer))
        self._layers.clear()
        return self.extend(layers)

    def _renumber(self) -> None:
        if all(name.isdecimal() for name in self._layers):
            layers = list(self._layers.values())
            self._layers.clear()
            self.extend(layers)

    def _name(self, index) -> str:
        position = operator.index(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"{type(self).__name__}: expected an index below {len(self)}, got {position}")
        return list(self._layers)[position]

    def _checked(self, layer) -> Layer:
        if not isinstance(layer, Layer):
            raise TypeError(f"{type(self).__name__}: expected layers, got {type(layer).__name__}")
        return layer


class Sequential(_Numbered):
    """Calls its layers one after the other, each on what the one before returned.

    Args:
        layers: any number of layers, or one mapping (such as an OrderedDict) of names to layers.
    """

    def __init__(self, *layers):
        super().__init__()
        if len(layers) == 1 and isinstance(layers[0], Mapping):
            for name, layer in layers[0].items():
                self._layers[str(name)] = self._checked(layer)
        else:
            self.extend(layers)

    def forward(self, input):
        for layer in self._layers.values():
            input = layer(input)
        return input

    def _part(self, items) -> Sequential:
        return Sequential(dict(items))


class LayerList(_Numbered):
    """A list of layers whose parameters belong to the layer that holds it; forward is written by that layer.
    `ModuleList` is its alias."""

    def __init__(self, layers: Iterable[Layer] = ()):
        super().__init__()
        self.extend(layers)

    def _part(self, items) -> LayerList:
        return LayerList(layer for _, layer in items)


class LayerDict(Layer):
    """Layers by name, whose parameters belong to the layer that holds it. `ModuleDict` is its alias."""

    def __init__(self, layers: Mapping[str, Layer] | Iterable[tuple[str, Layer]] = ()):
        super().__init__()
        self.update(layers)

    def __getitem__(self, name: str) -> Layer:
        return self._layers[name]

    def __setitem__(self, name: str, layer: Layer) -> None:
        if not isinstance(name, str) or not isinstance(layer, Layer):
            raise TypeError(
                f"LayerDict: expected a layer under a string, got {type(layer).__name__} under {type(name).__name__}"
            )
        self._layers[name] = layer

    def __delitem__(self, name: str) -> None:
        del self._layers[name]

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __contains__(self, name: str) -> bool:
        return name in self._layers

    def keys(self):
        """The names."""
        return self._layers.keys()

    def values(self):
        """The layers."""
        return self._layers.values()

    def items(self):
        """Pairs of name and layer."""
        return self._layers.items()

    def update(self, layers: Mapping[str, Layer] | Iterable[tuple[str, Layer]]) -> None:
        """Adds layers, or replaces those of the same names."""
        for name, layer in layers.items() if isinstance(layers, Mapping) else layers:
            self[name] = layer


class Identity(Layer):
    """Returns its input. Takes any arguments, so that it can stand in for any layer."""

    def __init__(self, *arguments, **keywords):
        super().__init__()

    def forward(self, input):
        return input


class Flatten(Layer):
    """Makes the axes start_dim, ..., end_dim one: [N, C, H, W] -> [N, C H W] by default."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input):
        return functional.flatten(input, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Layer):
    """Splits the axis `dim` into axes of the sizes `unflattened_size`, of which one may be -1."""

    def __init__(self, dim: int, unflattened_size: tuple[int, ...]):
        super().__init__()
        self.dim, self.unflattened_size = dim, tuple(unflattened_size)

    def forward(self, input):
        return functional.unflatten(input, self.dim, self.unflattened_size)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"


ModuleList = LayerList
ModuleDict = LayerDict
