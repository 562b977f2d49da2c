"""Writes a function that JAX has traced as a graph of ONNX operators.

It interprets the trace, so it knows JAX's primitives and not our networks: a new network of the
same primitives needs nothing here. Whatever does not depend on the images is computed now.

ONNX wants channels before height and width, JAX has them last. Arrays are transposed once, at the
input. From there on every array remembers the order of its axes, and rules write it in place.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.extend import core

from fer_jax.errors import UserError
from fer_jax.exporting.graph import AFFINE, Graph

Size = Any  # int, or JAX's symbolic size.


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An array that depends on the images.

    Attributes:
      name: name of ONNX's array.
      order: for each axis of ONNX's array, the axis that it is in JAX.
      sizes: sizes of ONNX's array. A size can be 1 where JAX's array repeats this axis.
      places: for flattened images, the place in JAX of each feature of ONNX's last axis.
    """

    name: str
    order: tuple[int, ...]
    sizes: tuple[Size, ...]
    places: np.ndarray | None = None

    def axis(self, of_jax: int) -> int:
        """Returns the place of JAX's axis."""
        return self.order.index(of_jax)


Value = Tensor | np.ndarray
"""An array that depends on the images, or a constant in JAX's order of axes."""


def to_graph(traced: core.ClosedJaxpr, arguments: Sequence[np.ndarray], name: str) -> Graph:
    """Returns the graph of a traced function.

    Args:
      traced: function of the arguments and, last, of a batch of images [batch, height, width, 1].
      arguments: values of all arguments but the images.
      name: name of the images.

    Raises:
      UserError: the function has an operation for which there is no rule.
    """
    interpreter = _Interpreter()
    *_, images = traced.jaxpr.invars
    shape = images.aval.shape  # type: ignore[attr-defined]
    start = interpreter.in_order(Tensor(name, tuple(range(4)), shape), _LAYOUTS[4])
    (result,) = interpreter.run(traced.jaxpr, traced.consts, [*arguments, start])
    assert isinstance(result, Tensor)
    interpreter.graph.output = interpreter.in_order(result, tuple(range(len(result.order)))).name
    interpreter.graph.simplify()
    return interpreter.graph


_LAYOUTS = {4: (0, 3, 1, 2), 5: (0, 1, 4, 2, 3)}
"""Order of the axes that ONNX wants, for images and for several views of them."""


class _Interpreter:
    """Evaluates a trace: constants by JAX, everything else as nodes of `graph`."""

    def __init__(self) -> None:
        self.graph = Graph()

    def run(
        self, jaxpr: core.Jaxpr, consts: Sequence[Any], arguments: Sequence[Value]
    ) -> list[Value]:
        """Returns the results of a trace."""
        values: dict[Any, Value] = {}

        def read(atom: Any) -> Value:
            return np.asarray(atom.val) if isinstance(atom, core.Literal) else values[atom]

        values.update(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
        values.update(zip(jaxpr.invars, arguments, strict=True))
        for equation in jaxpr.eqns:
            results = self._evaluate(equation, [read(atom) for atom in equation.invars])
            values.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _evaluate(self, equation: core.JaxprEqn, inputs: Sequence[Value]) -> Sequence[Value]:
        name, params = equation.primitive.name, equation.params
        constant = all(isinstance(value, np.ndarray) for value in inputs)
        named = _NAMED.get(params.get("name", "")) if not constant else None
        if name in _CALLS and not named:
            inner = next(params[key] for key in _INNER if key in params)
            consts = getattr(inner, "consts", ())
            return self.run(getattr(inner, "jaxpr", inner), consts, inputs)
        operands: list[Any] = [atom.aval for atom in equation.invars]
        shape = equation.outvars[0].aval.shape  # type: ignore[attr-defined]
        if constant and name != "broadcast_in_dim":
            results = equation.primitive.bind(*_whole(inputs, operands), **params)
            results = results if equation.primitive.multiple_results else [results]
            return [np.asarray(result) for result in results]
        rule = named or _RULES.get(name)
        if rule is None:
            raise UserError(
                f"the network computes {name!r}, which cannot be exported to ONNX; export it with "
                "--format=stablehlo, or add a rule to fer_jax/exporting/operators.py"
            )
        if name not in _BROADCAST:
            inputs = [
                self.whole(value, operand.shape) if isinstance(value, Tensor) else value
                for value, operand in zip(inputs, operands, strict=True)
            ]
        return [rule(self, *inputs, **{**params, "shape": shape, "operands": operands})]

    def in_order(self, x: Tensor, order: tuple[int, ...]) -> Tensor:
        """Returns the array with this order of axes, transposed where it has another."""
        x = self.placed(x)
        if x.order == order:
            return x
        turn = [x.axis(axis) for axis in order]
        name = self.graph.add("Transpose", x.name, perm=turn)
        return Tensor(name, order, tuple(x.sizes[axis] for axis in turn))

    def placed(self, x: Tensor) -> Tensor:
        """Returns the array with the features of flattened images in JAX's places."""
        if x.places is None:
            return x
        back = np.argsort(x.places)
        name = self.graph.add("Gather", x.name, back, axis=len(x.order) - 1)
        return Tensor(name, x.order, x.sizes)

    def whole(self, x: Tensor, shape: Sequence[Size]) -> Tensor:
        """Returns the array with all repetitions that JAX's shape has."""
        wanted = tuple(shape[axis] for axis in x.order)
        if wanted == x.sizes:
            return x
        # Expand repeats along an axis of size 1, and keeps the size where it is given a 1.
        times = [1 if size == has else size for size, has in zip(wanted, x.sizes, strict=True)]
        if not all(isinstance(size, int) for size in times):
            raise UserError("the network repeats an array for each image: no export to ONNX")
        name = self.graph.add("Expand", x.name, np.array(times, np.int64))
        return dataclasses.replace(x, name=name, sizes=wanted)

    def apply(self, op: str, x: Tensor, **attributes: Any) -> Tensor:
        """Appends an operator that keeps the shape."""
        return dataclasses.replace(x, name=self.graph.add(op, x.name, **attributes))

    def affine(self, x: Tensor, scale: Any, shift: Any) -> Tensor:
        """Returns x * scale + shift; both have x's rank and order, and broadcast to it."""
        rank = len(x.order)
        arrays = [np.asarray(value, np.float64) for value in (scale, shift)]
        arrays = [array.reshape(array.shape or rank * (1,)) for array in arrays]
        return dataclasses.replace(x, name=self.graph.add(AFFINE, x.name, *arrays))

    def constant_like(self, x: Tensor, constant: np.ndarray) -> np.ndarray:
        """Returns a constant in the order of the array's axes and features."""
        if constant.ndim == 0:
            return constant.reshape(len(x.order) * (1,))
        constant = constant.transpose(x.order)
        if x.places is not None and constant.shape[-1] > 1:
            constant = constant[..., x.places]
        return constant

    def binary(self, op: str, a: Value, b: Value) -> Tensor:
        """Appends an operator on two arrays, one of which may be constant."""
        like = a if isinstance(a, Tensor) else b
        assert isinstance(like, Tensor)
        names: list[Any]
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            if not (a.places is b.places and a.order == b.order):
                like = a = self.placed(a)
                b = self.in_order(b, a.order)
            sizes, names = [a.sizes, b.sizes], [a.name, b.name]
        else:
            other = a if isinstance(a, np.ndarray) else b
            assert isinstance(other, np.ndarray)
            array = self.constant_like(like, other)
            sizes = [like.sizes, array.shape]
            names = [array, like.name] if other is a else [like.name, array]
        broadcast = tuple(k if m == 1 else m for m, k in zip(*sizes, strict=True))
        return dataclasses.replace(like, name=self.graph.add(op, *names), sizes=broadcast)


_CALLS = {
    *("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2", "custom_vmap_call"),
    *("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"),
}
"""Primitives that call a traced function once."""

_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr", "call")
"""Their parameters that hold the function."""


def _whole(constants: Sequence[Any], operands: Sequence[Any]) -> Sequence[Any]:
    """Repeats constants that `_broadcast_in_dim` has left small, as far as they are combined."""
    pairs = zip(constants, operands, strict=True)
    small = any(np.shape(constant) != operand.shape for constant, operand in pairs)
    return np.broadcast_arrays(*constants) if small else constants


def _identity(write: _Interpreter, x: Tensor, **_: Any) -> Tensor:
    return x


def _unary(op: str) -> Callable[..., Tensor]:
    return lambda write, x, **_: write.apply(op, x)


def _binary(op: str) -> Callable[..., Tensor]:
    return lambda write, a, b, **_: write.binary(op, a, b)


def _linear(
    op: str, to_affine: Callable[[np.ndarray, bool], tuple[Any, Any] | None]
) -> Callable[..., Tensor]:
    """Returns the rule for an operation that is affine if one operand is constant.

    Args:
      op: the operator for two arrays.
      to_affine: function from the constant, and whether it is the first operand, to scale and
        shift; or to None if the result is not affine.
    """

    def rule(write: _Interpreter, a: Value, b: Value, **_: Any) -> Tensor:
        first = isinstance(a, np.ndarray)
        x, constant = (b, a) if first else (a, b)
        if isinstance(x, Tensor) and isinstance(constant, np.ndarray):
            array = write.constant_like(x, constant).astype(np.float64)
            fits = all(n in (1, size) for n, size in zip(array.shape, x.sizes, strict=True))
            terms = to_affine(array, first) if fits else None
            if terms is not None:
                return write.affine(x, *terms)
        return write.binary(op, a, b)

    return rule


def _max(write: _Interpreter, a: Value, b: Value, **_: Any) -> Tensor:
    for x, other in ((a, b), (b, a)):
        if isinstance(x, Tensor) and isinstance(other, np.ndarray) and not other.any():
            return write.apply("Relu", x)
    return write.binary("Max", a, b)


def _square(write: _Interpreter, x: Tensor, **_: Any) -> Tensor:
    return write.binary("Mul", x, x)


def _integer_pow(write: _Interpreter, x: Tensor, *, y: int, **_: Any) -> Tensor:
    if y == 2:
        return _square(write, x)
    return write.binary("Pow", x, np.full((), y, np.float32))


def _rsqrt(write: _Interpreter, x: Tensor, **_: Any) -> Tensor:
    return write.apply("Reciprocal", write.apply("Sqrt", x))


def _neg(write: _Interpreter, x: Tensor, **_: Any) -> Tensor:
    return write.affine(x, -1, 0)


def _erfc(write: _Interpreter, x: Tensor, **_: Any) -> Tensor:
    return write.affine(write.apply("Erf", x), -1, 1)


def _softmax(write: _Interpreter, x: Tensor, *, shape: Sequence[Size], **_: Any) -> Tensor:
    return write.apply("Softmax", x, axis=x.axis(len(shape) - 1))


def _convert(
    write: _Interpreter, x: Tensor, *, new_dtype: Any, operands: Sequence[Any], **_: Any
) -> Tensor:
    if operands[0].dtype == new_dtype:
        return x
    if np.dtype(new_dtype) != np.float32:
        raise UserError(f"the network computes in {new_dtype}, which cannot be exported to ONNX")
    return write.apply("Cast", x, to=np.dtype(new_dtype))


def _transpose(write: _Interpreter, x: Tensor, *, permutation: Sequence[int], **_: Any) -> Tensor:
    return dataclasses.replace(x, order=tuple(permutation.index(axis) for axis in x.order))


def _rev(write: _Interpreter, x: Tensor, *, dimensions: Sequence[int], **_: Any) -> Tensor:
    x = write.placed(x)
    axes = [x.axis(axis) for axis in dimensions]
    backwards = [[-1] * len(axes), [np.iinfo(np.int64).min] * len(axes), axes, [-1] * len(axes)]
    name = write.graph.add("Slice", x.name, *(np.array(row, np.int64) for row in backwards))
    return dataclasses.replace(x, name=name)


def _slice(
    write: _Interpreter, x: Tensor, *, start_indices, limit_indices, strides, shape, **_: Any
) -> Tensor:
    x = write.placed(x)
    rows, sizes = [], list(x.sizes)
    for axis, of_jax in enumerate(x.order):
        if x.sizes[axis] == shape[of_jax] or x.sizes[axis] == 1:
            continue
        step = strides[of_jax] if strides else 1
        rows.append((start_indices[of_jax], limit_indices[of_jax], axis, step))
        sizes[axis] = shape[of_jax]
    if not rows:
        return x
    name = write.graph.add("Slice", x.name, *np.array(rows, np.int64).T)
    return dataclasses.replace(x, name=name, sizes=tuple(sizes))


def _concatenate(write: _Interpreter, *parts: Value, dimension: int, **_: Any) -> Tensor:
    first = next(part for part in parts if isinstance(part, Tensor))
    if not all(isinstance(part, Tensor) for part in parts):
        raise UserError("the network appends constants, which cannot be exported to ONNX")
    tensors = [write.in_order(part, first.order) for part in parts if isinstance(part, Tensor)]
    axis = first.axis(dimension)
    sizes = list(tensors[0].sizes)
    sizes[axis] = sum(part.sizes[axis] for part in tensors)
    name = write.graph.add("Concat", *(part.name for part in tensors), axis=axis)
    return Tensor(name, first.order, tuple(sizes))


def _stack(write: _Interpreter, *parts: Tensor, axis: int, **_: Any) -> Tensor:
    added = [_add_axes(write, part, [axis]) for part in parts]
    return _concatenate(write, *added, dimension=axis)


def _add_axes(write: _Interpreter, x: Tensor, axes: Sequence[int]) -> Tensor:
    """Adds axes of size 1, numbered as in JAX's result, at the places that ONNX's layout has."""
    if not axes:
        return x
    x = write.placed(x)
    rank = len(x.order) + len(axes)
    kept = [axis for axis in range(rank) if axis not in axes]
    order = [kept[axis] for axis in x.order]
    layout = _LAYOUTS.get(rank, tuple(range(rank)))
    if [axis for axis in layout if axis in kept] != order:
        layout = (*sorted(axes), *order)
    places = [layout.index(axis) for axis in sorted(axes, key=layout.index)]
    sizes = list(x.sizes)
    for place in places:
        sizes.insert(place, 1)
    name = write.graph.add("Unsqueeze", x.name, np.array(places, np.int64))
    return Tensor(name, tuple(layout), tuple(sizes))


def _drop_axes(write: _Interpreter, x: Tensor, axes: Sequence[int]) -> Tensor:
    """Drops axes of size 1."""
    places = sorted(x.axis(axis) for axis in axes)
    kept = [axis for axis in range(len(x.order)) if axis not in axes]
    order = tuple(kept.index(axis) for axis in x.order if axis in kept)
    sizes = tuple(size for place, size in enumerate(x.sizes) if place not in places)
    return Tensor(write.graph.add("Squeeze", x.name, np.array(places, np.int64)), order, sizes)


def _broadcast_in_dim(
    write: _Interpreter, x: Value, *, shape: Sequence[Size], broadcast_dimensions, **_: Any
) -> Value:
    """Adds axes; repetitions along any axis are left to the operator that needs them."""
    if isinstance(x, Tensor):
        return _add_axes(
            write, x, [axis for axis in range(len(shape)) if axis not in broadcast_dimensions]
        )
    sizes = [1] * len(shape)
    for axis, size in zip(broadcast_dimensions, x.shape, strict=True):
        sizes[axis] = size
    x = x.reshape(sizes)
    known = all(isinstance(size, int) for size in shape)
    return np.broadcast_to(x, shape) if known else x


def _reshape(write: _Interpreter, x: Tensor, *, shape: Sequence[Size], **_: Any) -> Tensor:
    """Adds, removes, merges or splits axes, in place where merged axes are next to each other."""
    x = write.placed(x)
    before: list[Size] = [x.sizes[x.axis(axis)] for axis in range(len(x.order))]
    groups = _groups(before, shape)
    if all(len(old) == len(new) == 1 or not old for old, new in groups):
        return _add_axes(write, x, [new[0] for old, new in groups if not old])
    if all(len(old) == len(new) == 1 or not new for old, new in groups):
        return _drop_axes(write, x, [old[0] for old, new in groups if not new])
    order: list[int] = []
    flattened: np.ndarray | None = None
    for axis in x.order:
        old, new = next(group for group in groups if axis in group[0])
        start = x.order.index(old[0])
        together = list(x.order[start : start + len(old)]) == old
        if together:
            order += new if axis == old[0] else []
        elif len(new) == 1 and new[0] == len(shape) - 1 and sorted(x.order[-len(old) :]) == old:
            order += new if axis == x.order[-1] else []
            places = np.arange(math.prod(before[k] for k in old)).reshape([before[k] for k in old])
            flattened = places.transpose([old.index(k) for k in x.order[-len(old) :]]).reshape(-1)
        else:
            return _reshape(write, write.in_order(x, tuple(sorted(x.order))), shape=shape)
    for old, new in groups:
        order = (new if not old else []) + order
    sizes = tuple(shape[axis] for axis in order)
    target = [size if isinstance(size, int) else -1 for size in sizes]
    name = write.graph.add("Reshape", x.name, np.array(target, np.int64))
    return Tensor(name, tuple(order), sizes, flattened)


def _groups(before: Sequence[Size], after: Sequence[Size]) -> list[tuple[list[int], list[int]]]:
    """Returns the smallest groups of axes, old and new, that hold the same elements."""
    counts = [(1, 1), (0, 1), (1, 0), (2, 1), (1, 2), (3, 1), (1, 3), (2, 2)]
    groups, i, j = [], 0, 0
    while i < len(before) or j < len(after):
        for old, new in counts:
            fits = i + old <= len(before) and j + new <= len(after)
            if fits and math.prod(before[i : i + old]) == math.prod(after[j : j + new]):
                groups.append(([*range(i, i + old)], [*range(j, j + new)]))
                i, j = i + old, j + new
                break
        else:
            raise UserError(
                f"the network reshapes {tuple(before)} to {tuple(after)}, which cannot be exported "
                "to ONNX"
            )
    return groups


def _reduce(op: str) -> Callable[..., Tensor]:
    def rule(write: _Interpreter, x: Tensor, *, axes: Sequence[int], **_: Any) -> Tensor:
        x = write.placed(x)
        places = sorted(x.axis(axis) for axis in axes)
        kept = [axis for axis in range(len(x.order)) if axis not in axes]
        order = tuple(kept.index(axis) for axis in x.order if axis in kept)
        sizes = [size for place, size in enumerate(x.sizes) if place not in places]
        name = write.graph.add(op, x.name, np.array(places, np.int64), keepdims=0)
        return Tensor(name, order, tuple(sizes))

    return rule


def _reduce_sum(write: _Interpreter, x: Tensor, *, axes: Sequence[int], **_: Any) -> Tensor:
    """Sums as mean times count, since most sums are divided by the count."""
    count = math.prod(x.sizes[x.axis(axis)] for axis in axes)
    return write.affine(_reduce("ReduceMean")(write, x, axes=axes), count, 0)


def _convolution(
    write: _Interpreter,
    x: Value,
    kernel: Value,
    *,
    dimension_numbers: Any,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    feature_group_count: int,
    batch_group_count: int,
    operands: Sequence[Any],
    shape: Sequence[Size],
    **_: Any,
) -> Tensor:
    if not isinstance(x, Tensor) or not isinstance(kernel, np.ndarray):
        raise UserError("the network computes kernels from images: no export to ONNX")
    if batch_group_count != 1 or {*lhs_dilation} != {1}:
        raise UserError("the network has a transposed convolution, which cannot be exported")
    numbers = dimension_numbers
    x = write.in_order(x, tuple(numbers.lhs_spec))
    kernel = kernel.transpose(numbers.rhs_spec)
    channels, *space = (operands[0].shape[axis] for axis in x.order[1:])
    if x.sizes[1] == 1 < channels and feature_group_count == 1:
        # All channels are equal, so one with the sum of their kernels does.
        kernel, channels = kernel.sum(axis=1, keepdims=True), 1
    x = write.whole(x, _in_jax(x.order, (x.sizes[0], channels, *space)))
    name = write.graph.add(
        "Conv",
        x.name,
        kernel,
        np.zeros(kernel.shape[0]),
        kernel_shape=kernel.shape[2:],
        strides=window_strides,
        pads=[before for before, _ in padding] + [after for _, after in padding],
        dilations=rhs_dilation,
        group=feature_group_count,
    )
    order = tuple(numbers.out_spec)
    return Tensor(name, order, tuple(shape[axis] for axis in order))


def _in_jax(order: Sequence[int], sizes: Sequence[Size]) -> tuple[Size, ...]:
    """Returns sizes of ONNX's axes in JAX's order."""
    return tuple(sizes[order.index(axis)] for axis in range(len(order)))


def _pool(op: str) -> Callable[..., Tensor]:
    def rule(
        write: _Interpreter,
        x: Tensor,
        *,
        window_dimensions: Sequence[int],
        window_strides: Sequence[int],
        padding: Sequence[tuple[int, int]],
        window_dilation: Sequence[int],
        shape: Sequence[Size],
        **_: Any,
    ) -> Tensor:
        # The axes without a window come first.
        flat = [axis for axis in x.order if window_dimensions[axis] == 1]
        windowed = [axis for axis in x.order if axis not in flat]
        if len(flat) > 2 or {*window_dilation} != {1}:
            flat, windowed = flat[:2], flat[2:] + windowed
        x = write.in_order(x, (*flat, *windowed))
        sizes = [window_dimensions[axis] for axis in windowed]
        extra = {"count_include_pad": 1} if op == "AveragePool" else {}
        name = write.graph.add(
            op,
            x.name,
            kernel_shape=sizes,
            strides=[window_strides[axis] for axis in windowed],
            pads=[padding[axis][0] for axis in windowed] + [padding[axis][1] for axis in windowed],
            **extra,
        )
        result = Tensor(name, x.order, tuple(shape[axis] for axis in x.order))
        # JAX sums.
        return result if op == "MaxPool" else write.affine(result, math.prod(sizes), 0)

    return rule


def _dot_general(
    write: _Interpreter, a: Value, b: Value, *, dimension_numbers: Any, **_: Any
) -> Tensor:
    """Writes the product of an array and a constant matrix along any axis of the array."""
    contracted, batched = dimension_numbers
    x, matrix = (a, b) if isinstance(a, Tensor) else (b, a)
    if not isinstance(x, Tensor) or not isinstance(matrix, np.ndarray):
        raise UserError("the network multiplies features by features: no export to ONNX")
    (along,), (of_matrix,) = contracted if x is a else contracted[::-1]
    if matrix.ndim != 2 or any(batched):
        raise UserError("the network multiplies by several matrices: no export to ONNX")
    matrix = matrix.transpose(of_matrix, 1 - of_matrix)  # [old, new]
    place, rank = x.axis(along), len(x.order)
    if x.places is not None:
        x, matrix = (
            (dataclasses.replace(x, places=None), matrix[x.places])
            if place == rank - 1
            else (write.placed(x), matrix)
        )
    if x.sizes[place] == 1:
        matrix = matrix.sum(axis=0, keepdims=True)
    if rank == 2:
        x = write.in_order(x, (1 - along, along))
        place = 1
        name = write.graph.add("Gemm", x.name, matrix, np.zeros(matrix.shape[1]))
    elif place == rank - 1:
        name = write.graph.add("MatMul", x.name, matrix)
    elif place == rank - 2:
        name = write.graph.add("MatMul", matrix.T, x.name)
    elif rank == 4 and place == 1:
        name = write.graph.add(
            "Conv",
            x.name,
            matrix.T[:, :, None, None],
            np.zeros(matrix.shape[1]),
            kernel_shape=[1, 1],
            strides=[1, 1],
            pads=[0, 0, 0, 0],
            dilations=[1, 1],
            group=1,
        )
    else:
        x = write.in_order(x, (*(axis for axis in x.order if axis != along), along))
        place = rank - 1
        name = write.graph.add("MatMul", x.name, matrix)
    # JAX's result has the first operand's other axes, then the second's.
    rest = [axis for axis in range(rank) if axis != along]
    first = isinstance(a, Tensor)
    axes = {axis: k if first else k + 1 for k, axis in enumerate(rest)}
    axes[along] = rank - 1 if first else 0
    sizes = list(x.sizes)
    sizes[place] = matrix.shape[1]
    return Tensor(name, tuple(axes[axis] for axis in x.order), tuple(sizes))


_NAMED: dict[str, Callable[..., Tensor]] = {"softmax": _softmax}
"""Rules for functions of JAX that are one operator of ONNX, by their name in a trace."""

_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("copy", "copy_p", "stop_gradient", "optimization_barrier"), _identity),
    "abs": _unary("Abs"),
    "add": _linear("Add", lambda c, first: (1, c)),
    "convert_element_type": _convert,
    "div": _linear("Div", lambda c, first: None if first else (1 / c, 0)),
    "erf": _unary("Erf"),
    "erfc": _erfc,
    "exp": _unary("Exp"),
    "integer_pow": _integer_pow,
    "log": _unary("Log"),
    "logistic": _unary("Sigmoid"),
    "max": _max,
    "min": _binary("Min"),
    "mul": _linear("Mul", lambda c, first: (c, 0)),
    "neg": _neg,
    "pow": _binary("Pow"),
    "rsqrt": _rsqrt,
    "sqrt": _unary("Sqrt"),
    "square": _square,
    "sub": _linear("Sub", lambda c, first: (-1, c) if first else (1, -c)),
    "tanh": _unary("Tanh"),
}

_RULES: dict[str, Callable[..., Any]] = {
    **_ELEMENTWISE,
    "transpose": _transpose,
    "rev": _rev,
    "slice": _slice,
    "concatenate": _concatenate,
    "stack": _stack,
    "broadcast_in_dim": _broadcast_in_dim,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "reduce_sum": _reduce_sum,
    "reduce_max": _reduce("ReduceMax"),
    "conv_general_dilated": _convolution,
    "reduce_window_max": _pool("MaxPool"),
    "reduce_window_sum": _pool("AveragePool"),
    "dot_general": _dot_general,
}
"""Rules by the name of JAX's primitive."""

_BROADCAST = {*_ELEMENTWISE, "broadcast_in_dim", "transpose", "conv_general_dilated", "dot_general"}
"""Primitives whose rules take arrays with a size of 1 where JAX's array repeats an axis."""
