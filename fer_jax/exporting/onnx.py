"""ONNX files: the prediction as standard operators, for onnxruntime and others."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from fer_jax.errors import UserError
from fer_jax.exporting.graph import Graph, Node
from fer_jax.exporting.inference_form import (
    INPUT,
    OUTPUT,
    describe,
    make_prediction,
    symbolic_images,
    weights_of,
)
from fer_jax.exporting.operators import to_graph
from fer_jax.inference.trained import TrainedModel
from fer_jax.kernels.context import standard_operations

if TYPE_CHECKING:
    import onnx

OPSET, IR_VERSION = 20, 9
"""Versions of ONNX 1.15; onnxruntime supports them since 1.17. Gelu came with this opset."""

_LARGEST = 2**31 - 1
"""Bytes that a protocol buffer can have."""


def export_onnx(model: TrainedModel) -> bytes:
    """Returns the content of an ONNX file from grey levels to probabilities.

    Raises:
      UserError: ONNX has no operator for something that the network computes, or the file would
        be larger than 2 GiB.
    """
    predict = make_prediction(model, views_at_once=True)
    weights = weights_of(model)
    with standard_operations():
        traced = jax.jit(predict).trace(weights, symbolic_images(model)).jaxpr
    graph = to_graph(traced, jax.tree.leaves(weights), INPUT)
    size = sum(array.size * 4 for node in graph.operators() for array in node.constants)
    if size > _LARGEST:
        raise UserError(
            f"the weights have {size / 2**30:.1f} GiB, but an ONNX file has at most 2; use "
            "--format=safetensors"
        )
    return _to_proto(graph, model).SerializeToString()


def run_onnx(path: Path) -> Any:
    """Returns the function from images to probabilities that onnxruntime finds in a file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def predict(
        images: UInt8[np.ndarray, "n size size channels"],
    ) -> Float[np.ndarray, "n classes"]:
        return session.run([OUTPUT], {INPUT: images})[0]

    return predict


def _to_proto(graph: Graph, model: TrainedModel) -> "onnx.ModelProto":
    from onnx import TensorProto, checker, helper

    initializers: dict[Any, onnx.TensorProto] = {}
    nodes = [_to_node(node, graph.output, initializers) for node in graph.operators()]
    images = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ("batch", *model.images.shape))
    shape = ("batch", len(model.classes))
    probabilities = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, shape)
    constants = list(initializers.values())
    body = helper.make_graph(nodes, "fer_jax", [images], [probabilities], constants)
    proto = helper.make_model(
        body,
        producer_name="fer_jax",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
        doc_string="Probabilities of facial expressions in pictures of faces.",
    )
    helper.set_model_props(proto, describe(model))
    checker.check_model(proto, full_check=True)
    return proto


def _to_node(node: Node, result: str, initializers: dict[Any, Any]) -> "onnx.NodeProto":
    """Returns a node, and adds its constants to the initializers. Equal constants are one."""
    from onnx import helper, numpy_helper

    inputs = []
    for value in node.inputs:
        if isinstance(value, np.ndarray):
            kind = np.int64 if value.dtype.kind == "i" else np.float32
            array = np.ascontiguousarray(value, kind)
            key = (array.dtype, array.shape, hashlib.sha256(array).digest())
            if key not in initializers:
                name = f"constant_{len(initializers)}"
                initializers[key] = numpy_helper.from_array(array, name)
            value = initializers[key].name
        inputs.append(value)
    attributes: dict[str, Any] = {
        key: helper.np_dtype_to_tensor_dtype(value) if isinstance(value, np.dtype) else value
        for key, value in node.attributes.items()
    }
    output = OUTPUT if node.output == result else node.output
    return helper.make_node(node.op, inputs, [output], name=node.output, **attributes)
