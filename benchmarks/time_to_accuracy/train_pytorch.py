"""PyTorch's side of `benchmarks.time_to_accuracy`; needs only PyTorch and numpy.

It prints a line of JSON after each epoch. The networks are those of `benchmarks.speed`.
"""

import json
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "speed"))

import numpy as np
import torch
from time_pytorch import build_cnn, build_resnet
from torch import nn


def initialize(module: nn.Module) -> None:
    """Gives a layer Keras's initial weights, as the layers of fer_jax's plain networks have."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def main(job: dict, weights: str) -> None:
    """Trains a job, see `_make_job` in `benchmarks.time_to_accuracy`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(job["seed"])
    model, channels, size = job["model"], job["model"]["channels"], job["batch_size"]
    if model["name"] == "cnn":
        network = build_cnn(model["layers"], channels).apply(initialize)
    else:
        network = build_resnet(channels, model["width"])
    network = network.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(
        network.parameters(), job["learning_rate"], eps=1e-7, fused=device == "cuda"
    )
    epochs, steps = job["epochs"], job["steps_per_epoch"]
    if job["schedule"] == "cosine":
        rate = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: (1 + math.cos(math.pi * step / (epochs * steps))) / 2
        )
    else:
        rate = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    arrays = np.load(job["images"])
    images, labels, seen, truth = (
        torch.from_numpy(arrays[f"{split}_{what}"]).to(device)
        for split in ("train", "validation")
        for what in ("images", "labels")
    )
    images, seen, labels, truth = images[..., 0], seen[..., 0], labels.long(), truth.long()
    index = torch.arange(48, device=device)
    reach = round(job["shift"] * 48)
    mixed = torch.autocast(device, torch.bfloat16, enabled=job["dtype"] == "bfloat16")

    def forward(batch: torch.Tensor) -> torch.Tensor:
        x = (batch[:, None].float() / 255).expand(-1, channels, -1, -1)
        with mixed:
            return network(x.contiguous(memory_format=torch.channels_last))

    def draw(rows: torch.Tensor) -> torch.Tensor:
        """Returns a shifted and flipped batch, by the same gather as ours."""
        down, right = torch.randint(-reach, reach + 1, (2, len(rows), 1), device=device)
        y, x = (index - down).clamp(0, 47), (index - right).clamp(0, 47)
        if job["flip"]:
            x = torch.where(torch.rand(len(rows), 1, device=device) < 0.5, 47 - x, x)
        return images[rows[:, None, None], y[:, :, None], x[:, None, :]]

    best = 0.0
    for _ in range(epochs):
        network.train()
        passes = math.ceil(steps * size / len(images))
        order = torch.cat([torch.randperm(len(images), device=device) for _ in range(passes)])
        for step in range(steps):
            rows = order[step * size : (step + 1) * size]
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(forward(draw(rows)).float(), labels[rows]).backward()
            optimizer.step()
            rate.step()
        network.eval()
        with torch.inference_mode():
            guesses = torch.cat([forward(x).argmax(1) for x in seen.split(job["eval_batch_size"])])
        accuracy = float((guesses == truth).double().mean())
        if accuracy > best:
            best = accuracy
            torch.save(network.state_dict(), weights)
        version = f"PyTorch {torch.__version__}"
        print(json.dumps({"val_accuracy": accuracy, "version": version}), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
