from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from data_prep.sample import TEST_COUNTS, TRAIN_COUNTS, write_sample
from fer_jax.data.contract import CLASS_NAMES


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sample")
    write_sample(directory)
    return directory


def read(sample: Path, pattern: str) -> tuple[np.ndarray, np.ndarray]:
    paths = sorted(sample.glob(pattern))
    images = np.stack([np.asarray(Image.open(path), np.float32).ravel() for path in paths])
    return images, np.array([CLASS_NAMES.index(path.parent.name) for path in paths])


@pytest.mark.parametrize(
    ("part", "usage", "counts"),
    [
        ("train", "Training", TRAIN_COUNTS),
        ("test", "PublicTest", TEST_COUNTS),
        ("test", "PrivateTest", TEST_COUNTS),
    ],
)
def test_the_layout_is_that_of_the_folder_release(sample, part, usage, counts):
    found = [len(list((sample / part / name).glob(f"{usage}_*.png"))) for name in CLASS_NAMES]
    assert found == list(counts)


def test_images_are_grey_and_48x48(sample):
    paths = list(sample.rglob("*.*"))
    assert len(paths) == 4900
    for path in paths:
        with Image.open(path) as image:
            assert (image.mode, image.size, image.format) == ("L", (48, 48), "PNG")


def test_every_byte_is_the_same_again(sample, tmp_path):
    write_sample(tmp_path / "again")

    def content(directory: Path) -> dict[str, bytes]:
        files = directory.rglob("*.png")
        return {str(path.relative_to(directory)): path.read_bytes() for path in files}

    assert content(tmp_path / "again") == content(sample)
    assert len(set(content(sample).values())) == 4900


def test_a_linear_model_learns_something_but_not_enough(sample):
    train, train_labels = read(sample, "train/*/Training_*.png")
    test, test_labels = read(sample, "test/*/PublicTest_*.png")
    scaler = StandardScaler().fit(train)
    with threadpool_limits(1):  # On a busy machine BLAS's threads are ten times slower.
        model = LogisticRegression(C=1e-3, max_iter=500).fit(scaler.transform(train), train_labels)
    assert 0.3 < model.score(scaler.transform(test), test_labels) < 0.7
