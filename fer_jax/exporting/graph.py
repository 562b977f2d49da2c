"""A graph of ONNX operators, and the rules that bring it into inference form."""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

AFFINE = "Affine"
"""x * scale + shift, with two arrays that broadcast to x. `Graph.operators` writes it as ONNX's."""


@dataclasses.dataclass
class Node:
    """An operator.

    Attributes:
      op: its name in ONNX, or `AFFINE`.
      inputs: each is the name of another node's output or of the graph's input, or a constant.
      output: name of the result.
      attributes: ONNX's attributes.
    """

    op: str
    inputs: list[Any]
    output: str
    attributes: dict[str, Any]

    @property
    def names(self) -> list[str]:
        """The inputs that are no constants."""
        return [name for name in self.inputs if isinstance(name, str)]

    @property
    def constants(self) -> list[np.ndarray]:
        """The inputs that are constants."""
        return [array for array in self.inputs if isinstance(array, np.ndarray)]


class Graph:
    """Operators in the order in which they are computed.

    Attributes:
      nodes: the nodes, by the name of their output.
      output: name of the graph's result, once it is known.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.output = ""
        self._numbers = itertools.count()
        self._users: Counter[str] = Counter()

    def add(self, op: str, *inputs: Any, **attributes: Any) -> str:
        """Appends a node and returns the name of its output."""
        output = f"{op.lower()}_{next(self._numbers)}"
        self.nodes[output] = Node(op, list(inputs), output, attributes)
        return output

    def simplify(self) -> None:
        """Brings the graph into inference form.

        Scales and shifts, such as those of batch normalisation, become part of the convolution or
        dense layer before or after them where that is exact.
        """
        changed = True
        while changed:
            changed = False
            self._count_users()
            for node in list(self.nodes.values()):
                for rule in _RULES:
                    if node.output in self.nodes and rule(self, node):
                        changed = True
                        self._count_users()

    def operators(self) -> list[Node]:
        """Returns the nodes, with those of `AFFINE` written as operators of ONNX."""
        return [new for node in self.nodes.values() for new in _to_operators(node)]

    def sole(self, name: Any) -> Node | None:
        """Returns the node with this output if exactly one other takes it; otherwise None."""
        return self.nodes.get(name) if isinstance(name, str) and self._users[name] == 1 else None

    def remove(self, node: Node) -> None:
        """Removes a node; its users take its first input in its place."""
        del self.nodes[node.output]
        for user in self.nodes.values():
            if node.output in user.names:
                user.inputs = [
                    node.inputs[0] if isinstance(name, str) and name == node.output else name
                    for name in user.inputs
                ]
        if self.output == node.output:
            self.output = node.inputs[0]

    def _count_users(self) -> None:
        self._users = Counter(name for node in self.nodes.values() for name in node.names)
        self._users[self.output] += 1


def _drop_identity(graph: Graph, node: Node) -> bool:
    """Drops a scale of 1 without shift, such as a mean times the count over the count."""
    if node.op != AFFINE:
        return False
    scale, shift = node.constants
    if not np.allclose(scale, 1, rtol=1e-6, atol=0) or shift.any():
        return False
    graph.remove(node)
    return True


def _compose(graph: Graph, node: Node) -> bool:
    """Merges two affine nodes, one after the other."""
    before = graph.sole(node.inputs[0])
    if node.op != AFFINE or before is None or before.op != AFFINE:
        return False
    (scale, shift), (first, offset) = node.constants, before.constants
    before.inputs[1:] = [first * scale, offset * scale + shift]
    graph.remove(node)
    return True


def _fold_into_earlier(graph: Graph, node: Node) -> bool:
    """Folds an affine node into the convolution or dense layer before it."""
    before = graph.sole(node.inputs[0])
    if node.op != AFFINE or before is None or before.op not in ("Conv", "Gemm"):
        return False
    source, weight, bias = before.inputs
    scale, shift = (_per_channel(array, len(bias)) for array in node.constants)
    if scale is None or shift is None:
        return False
    along = scale if before.op == "Gemm" else scale.reshape(-1, 1, 1, 1)
    before.inputs = [source, weight * along, bias * scale + shift]
    graph.remove(node)
    return True


def _fold_into_later(graph: Graph, node: Node) -> bool:
    """Folds an affine node into the convolution or dense layer after it.

    A shift stays where the convolution pads, because the zeros around the image do not have it.
    """
    before = graph.sole(node.inputs[0])
    if node.op not in ("Conv", "Gemm") or before is None or before.op != AFFINE:
        return False
    source, weight, bias = node.inputs
    convolution = node.op == "Conv"
    count = weight.shape[1 if convolution else 0]
    scale, shift = (_per_channel(array, count) for array in before.constants)
    if scale is None or shift is None:
        return False
    if convolution and shift.any() and any(node.attributes["pads"]):
        return False
    if convolution and node.attributes["group"] != 1 and before.constants[0].size != 1:
        return False
    if convolution:
        bias = bias + np.einsum("oikl,i->o", weight, shift)
        weight = weight * scale.reshape(1, -1, 1, 1)
    else:
        bias = bias + shift @ weight
        weight = weight * scale[:, None]
    node.inputs = [source, weight, bias]
    graph.remove(before)
    return True


def _move_later(graph: Graph, node: Node) -> bool:
    """Moves an affine node behind an operator that commutes with it, towards others of its kind."""
    before = graph.sole(node.names[0])
    if before is None or before.op != AFFINE:
        return False
    scale, shift = before.constants
    alike = scale.size == shift.size == 1
    arrays = [scale, shift]
    per_image = all(map(_is_per_image, arrays))
    if node.op in ("Squeeze", "Unsqueeze") and alike:
        added = len(node.inputs[1]) * (1 if node.op == "Unsqueeze" else -1)
        arrays = [array.reshape((array.ndim + added) * (1,)) for array in arrays]
    elif node.op == "Reshape" and per_image and len(node.inputs[1]) == 2:
        features = node.inputs[1][1]  # The pixels of the first channel come first.
        arrays = [np.repeat(array, features // array.size)[None] for array in arrays]
    elif not (node.op == "MatMul" and alike and not shift.any()) and not (
        node.op == "MaxPool" and per_image and np.all(scale > 0)
    ):
        return False
    moved = [before.inputs[0] if name is node.names[0] else name for name in node.inputs]
    before.op, before.inputs, before.attributes = node.op, moved, node.attributes
    node.op, node.inputs, node.attributes = AFFINE, [before.output, *arrays], {}
    return True


def _is_per_image(array: np.ndarray) -> bool:
    """Returns whether an array of four axes has one value for each channel."""
    return array.ndim == 4 and array.size == array.shape[1] > 1


def _per_channel(array: np.ndarray, channels: int) -> np.ndarray | None:
    """Returns one value per channel, the second axis of x; None if the array varies otherwise."""
    if array.size == 1:
        return np.full(channels, array.item())
    varies = array.ndim > 1 and array.shape[1] == array.size == channels
    return array.reshape(-1) if varies else None


def _keep_axes(graph: Graph, node: Node) -> bool:
    """Lets a mean keep the axes that the next node would add again."""
    before = graph.sole(node.inputs[0])
    if node.op != "Unsqueeze" or before is None or before.op != "ReduceMean":
        return False
    if before.attributes["keepdims"] or not np.array_equal(node.inputs[1], before.inputs[1]):
        return False
    before.attributes["keepdims"] = 1
    graph.remove(node)
    return True


def _keep_rank(graph: Graph, node: Node) -> bool:
    """Removes axes that are added and dropped again."""
    before = graph.sole(node.inputs[0])
    if node.op != "Squeeze" or before is None or before.op != "Unsqueeze":
        return False
    if not np.array_equal(node.inputs[1], before.inputs[1]):
        return False
    graph.remove(node)
    graph.remove(before)
    return True


def _find_gelu(graph: Graph, node: Node) -> bool:
    """Writes (x / 2) * (1 + erf(x / sqrt(2))) as Gelu: Hendrycks and Gimpel, arXiv:1606.08415."""
    if node.op != "Mul" or len(node.names) != 2:
        return False
    for half, rest in itertools.permutations(graph.sole(name) for name in node.names):
        erf = graph.sole(rest.inputs[0]) if rest else None
        inner = graph.sole(erf.inputs[0]) if erf else None
        if not (half and rest and erf and inner and half.inputs[0] == inner.inputs[0]):
            continue
        if [half.op, rest.op, erf.op, inner.op] != [AFFINE, AFFINE, "Erf", AFFINE]:
            continue
        found = [float(c.item()) for n in (half, rest, inner) for c in n.constants if c.size == 1]
        if len(found) == 6:
            found[2] *= math.copysign(1, found[4])  # erf is odd.
            found[4] = abs(found[4])
        if np.shape(found) == (6,) and np.allclose(found, [0.5, 0, 1, 1, math.sqrt(0.5), 0]):
            node.op, node.inputs = "Gelu", [half.inputs[0]]
            for part in (half, rest, erf, inner):
                del graph.nodes[part.output]
            return True
    return False


_RULES: Sequence[Callable[[Graph, Node], bool]] = (
    _drop_identity,
    _compose,
    _find_gelu,
    _fold_into_earlier,
    _fold_into_later,
    _keep_axes,
    _keep_rank,
    _move_later,
)
"""Each changes the graph at a node where it applies, and returns whether it did."""


def _to_operators(node: Node) -> list[Node]:
    source, output = node.inputs[0], node.output
    if node.op == "ReduceMean" and node.inputs[1].tolist() == [2, 3]:  # Height and width.
        if node.attributes["keepdims"]:
            return [Node("GlobalAveragePool", [source], output, {})]
        pooled = f"{output}_pooled"
        flatten = Node("Flatten", [pooled], output, {"axis": 1})
        return [Node("GlobalAveragePool", [source], pooled, {}), flatten]
    if node.op != AFFINE:
        return [node]
    scale, shift = node.constants
    channels = max(scale.size, shift.size)
    values = [_per_channel(array, channels) for array in (scale, shift)]
    both = np.any(scale != 1) and np.any(shift != 0)
    if both and scale.ndim == 4 and channels > 1 and all(value is not None for value in values):
        # With a mean of 0 and a variance of 1, batch normalisation is just that, in one pass.
        fixed = [np.zeros(channels), np.ones(channels)]
        inputs = [source, *values, *fixed]
        return [Node("BatchNormalization", inputs, output, {"epsilon": 0.0})]
    if both:
        scaled = f"{output}_scaled"
        return [Node("Mul", [source, scale], scaled, {}), Node("Add", [scaled, shift], output, {})]
    if np.any(shift != 0):
        return [Node("Add", [source, shift], output, {})]
    return [Node("Mul", [source, scale], output, {})]
