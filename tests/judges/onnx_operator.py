"""What the translations of ONNX's operators share: the node that they read, and the table that they enter."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

OPERATORS = {}


@dataclass(frozen=True)
class Node:
    """One node of a graph.

    Attributes:
        kind: the operator's name.
        attributes: name -> value, text decoded.
        version: the version of the operator set that the model asks for.
        inputs, outputs: names; an empty one was left out.
    """

    kind: str
    attributes: dict
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, proto: onnx.NodeProto, version: int) -> Node:
        values = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
        values = {name: _decoded(value) for name, value in values.items()}
        return cls(proto.op_type, values, version, tuple(proto.input), tuple(proto.output))

    def get(self, name: str, default=None):
        return self.attributes.get(name, default)

    def asks_for(self, output: int) -> bool:
        """Whether the graph names the output of that number."""
        return len(self.outputs) > output and self.outputs[output] != ""

    def has(self, input: int) -> bool:
        """Whether the graph gives the input of that number."""
        return len(self.inputs) > input and self.inputs[input] != ""


def _decoded(value):
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    return value


def operator(*kinds: str):
    """Enters a function (node, *inputs) -> output or tuple of outputs as the translation of these operators."""

    def enter(function):
        for kind in kinds:
            OPERATORS[kind] = function
        return function

    return enter
