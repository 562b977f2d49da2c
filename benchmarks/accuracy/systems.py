"""The published systems and our own networks: what was published, by the name of the config."""

from collections.abc import Sequence
from typing import NamedTuple


class System(NamedTuple):
    """A system as its write-up describes it.

    Attributes:
      published: published result, and the images that it was measured on; empty for our own.
      parameters: published number of parameters; 0 if there is none.
      per_class: precision, recall and F1 of each of `CLASS_NAMES`, in percent.
    """

    published: str = ""
    parameters: int = 0
    per_class: Sequence[tuple[int, int, int]] = ()


SYSTEMS = {
    "published/small_cnn": System("about 60 % validation", 319_527),
    "published/medium_cnn": System(
        "64 % test, macro F1 61 %, weighted F1 63 %",
        4_496_903,
        (
            *((51, 59, 54), (56, 60, 58), (54, 44, 48), (84, 84, 84)),
            *((57, 61, 59), (53, 47, 50), (73, 78, 76)),
        ),
    ),
    "published/large_cnn": System("65.58 % training, 56.71 % validation", 17_046_535),
    "published/large_cnn_augmented": System("57.08 % training, 59.14 % validation", 17_046_535),
    "published/large_cnn_shift_flip": System("66.79 % training, 61.59 % validation"),
    "published/three_emotions": System("57.5 to 60 % validation, of three classes", 2_434_435),
    "published/vgg16_transfer": System("55.93 % training, 55.00 % validation, on both tests"),
    "published/resnet50_transfer": System("62.61 % training, 60.80 % validation, on both tests"),
    "resnet": System(),
    "resnet_ensemble": System(),
    "resnet_record": System(),
    "resnet_fast": System(),
    "resnet_cpu": System(),
    "ready": System(),
    "efficientnet": System(),
    "efficientnet_lite": System(),
    "densenet": System(),
    "convnext": System(),
}
