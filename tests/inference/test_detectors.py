"""MTCNN finds what Haar misses; a detector's file is checked before it is used."""

import math

import cv2
import numpy as np
import pytest
from PIL import Image

from fer_jax.errors import UserError
from fer_jax.inference.detectors import choose_detector
from fer_jax.inference.faces import Box, Place, find_faces, locate
from tests.inference.test_faces import PLACES, overlap, paste, real_faces


@pytest.mark.parametrize("turn", [-30, 30])
def test_mtcnn_finds_turned_faces_and_how_much_they_are_turned(turn, request):
    """A picture that is turned about its centre clockwise."""
    canvas = paste(real_faces(request))
    turned = canvas.rotate(-turn, Image.Resampling.BICUBIC, expand=True, fillcolor=128)
    radians, found = math.radians(turn), 0
    places = locate(turned, "mtcnn")
    for left, top, width, height in PLACES:
        x, y = left + width / 2 - canvas.width / 2, top + height / 2 - canvas.height / 2
        x, y = (
            x * math.cos(radians) - y * math.sin(radians) + turned.width / 2,
            x * math.sin(radians) + y * math.cos(radians) + turned.height / 2,
        )
        expected = Box(round(x - width / 2), round(y - height / 2), width, height)
        for box, tilt in places:
            if overlap(box, expected) > 0.5:
                found += 1
                assert math.degrees(tilt) == pytest.approx(turn, abs=20)
    assert found >= 5  # Haar finds none of them.
    assert found >= len(places) - 1
    assert len(find_faces(turned, "haar")) < found


def test_a_turned_face_is_cropped_upright():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (10, 10), dtype=np.uint8)
    picture = Image.fromarray(cv2.resize(coarse, (200, 200), interpolation=cv2.INTER_CUBIC))
    turned = picture.rotate(-25, Image.Resampling.BICUBIC)  # clockwise
    box = Box(70, 70, 60, 60)
    upright = np.asarray(Place(box, 0).crop(picture), int)
    again = np.asarray(Place(box, math.radians(25)).crop(turned), int)
    assert np.abs(again - upright).mean() < 4
    assert np.abs(np.asarray(Place(box, 0).crop(turned), int) - upright).mean() > 20


def test_a_detectors_file_is_checked(tmp_path):
    for name, content in (("other.onnx", b"no network"), ("empty.onnx", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} is not YuNet, or damaged; give"):
            choose_detector("yunet", tmp_path / name)
    with pytest.raises(UserError, match=r"there is no file .*none.onnx; give"):
        choose_detector("yunet", tmp_path / "none.onnx")
    with pytest.raises(UserError, match="needs a file; give --detector_file=PATH"):
        choose_detector("yunet")
    with pytest.raises(UserError, match="needs no file; leave --detector_file out"):
        choose_detector("mtcnn", tmp_path / "other.onnx")


def test_yunets_boxes_and_eyes_are_read(tmp_path):
    """A net with YuNet's outputs takes each white cell of 8 pixels for a face of 32."""
    onnx = pytest.importorskip("onnx")
    nodes, outputs, weights = [], [], []
    for stride in (8, 16, 32):
        cells = f"cells_{stride}"
        nodes.append(
            onnx.helper.make_node(
                "AveragePool", ["input"], [cells], kernel_shape=[stride] * 2, strides=[stride] * 2
            )
        )
        log = math.log(32 / stride)
        eyes = [-1, -1.5, 1, -0.5, 0, 0, -1, 1, 1, 1]  # The eye on the right is lower by 1 of 2.
        biases = {"cls": [0], "obj": [1], "bbox": [0.5, 0.5, log, log], "kps": eyes}
        for kind, bias in biases.items():
            kernel = np.zeros((len(bias), 3, 1, 1), np.float32)
            if kind == "cls" and stride == 8:
                kernel[:] = 1 / (3 * 255)
            name = f"{kind}_{stride}"
            weights.append(onnx.numpy_helper.from_array(kernel, f"{name}_w"))
            weights.append(onnx.numpy_helper.from_array(np.float32(bias), f"{name}_b"))
            weights.append(
                onnx.numpy_helper.from_array(np.array([1, -1, len(bias)]), f"{name}_shape")
            )
            make = onnx.helper.make_node
            nodes += [
                make("Conv", [cells, f"{name}_w", f"{name}_b"], [f"{name}_maps"]),
                make("Transpose", [f"{name}_maps"], [f"{name}_last"], perm=[0, 2, 3, 1]),
                make("Reshape", [f"{name}_last", f"{name}_shape"], [name]),
            ]
            outputs.append(onnx.helper.make_tensor_value_info(name, 1, [1, None, len(bias)]))
    inputs = [onnx.helper.make_tensor_value_info("input", 1, [1, 3, 640, 640])]
    graph = onnx.helper.make_graph(nodes, "yunet", inputs, outputs, weights)
    opset = [onnx.helper.make_opsetid("", 11)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "y.onnx")
    picture = np.zeros((96, 160, 3), np.uint8)
    picture[40:48, 80:88] = 255
    (place,) = locate(Image.fromarray(picture), choose_detector("yunet", tmp_path / "y.onnx"))
    assert overlap(place.box, Box(68, 28, 32, 32)) > 0.9
    assert place.tilt == pytest.approx(math.atan2(1, 2), abs=1e-3)
