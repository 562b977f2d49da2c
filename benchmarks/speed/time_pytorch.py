"""PyTorch's side of `benchmarks.speed`; needs only PyTorch and numpy.

It prints that it is ready, then one line of JSON for each line that it reads. It is written as a
good PyTorch programmer would: channels-last, images as uint8 in the memory of the device, shift and
flip of whole batches, and Adam. On a CPU PyTorch chooses the threads. On a GPU mixed precision,
`torch.compile`, and `torch.compile` with CUDA graphs are timed too.
"""

import json
import resource
import sys
import time

import torch
from torch import nn

IMAGES = 20_000

WAYS = {
    "PyTorch": (False, None),
    "PyTorch, AMP bfloat16": (True, None),
    "PyTorch, AMP bfloat16, torch.compile": (True, "default"),
    "PyTorch, AMP bfloat16, torch.compile, CUDA graphs": (True, "reduce-overhead"),
}
"""Ways to train: whether with AMP, and the mode of `torch.compile`. A CPU has only the first."""


def build_cnn(layers: list, channels: int) -> nn.Module:
    """Builds the network of fer_jax's layer list."""
    modules: list[nn.Module] = []
    side, width = 48, channels
    for entry in layers:
        name, *numbers = [entry] if isinstance(entry, str) else entry
        if name == "conv":
            features, kernel, padding = [*numbers, *(3, "SAME")[len(numbers) - 1 :]]
            modules += [nn.Conv2d(width, features, kernel, padding=padding.lower()), nn.ReLU()]
            side, width = side - (kernel - 1 if padding == "VALID" else 0), features
        elif name == "dense":
            modules += [nn.Linear(width, numbers[0]), nn.ReLU()]
            width = numbers[0]
        elif name == "batch_norm":
            modules.append((nn.BatchNorm2d if side else nn.BatchNorm1d)(width, eps=1e-3))
        elif name == "max_pool":
            modules.append(nn.MaxPool2d(numbers[0] if numbers else 2))
            side //= numbers[0] if numbers else 2
        elif name == "dropout":
            modules.append(nn.Dropout(numbers[0]))
        elif name == "flatten":
            modules.append(nn.Flatten())
            side, width = 0, width * side * side
    return nn.Sequential(*modules, nn.Linear(width, 7))


class Block(nn.Module):
    """A basic residual block."""

    def __init__(self, inputs: int, features: int, stride: int):
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, features, 3, stride, 1, bias=False),
            nn.BatchNorm2d(features),
            nn.ReLU(),
            nn.Conv2d(features, features, 3, 1, 1, bias=False),
            nn.BatchNorm2d(features),
        )
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != features:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, features, 1, stride, bias=False), nn.BatchNorm2d(features)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns relu(branch + shortcut)."""
        return torch.relu(self.branch(x) + self.shortcut(x))


def build_resnet(channels: int, width: int) -> nn.Module:
    """Builds ResNet-18 with a 3x3 stem."""
    modules: list[nn.Module] = [
        *(nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    ]
    inputs = width
    for stage in range(4):
        for index in range(2):
            modules.append(Block(inputs, width * 2**stage, 2 if stage and not index else 1))
            inputs = width * 2**stage
    return nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 7))


def main(job: dict) -> None:
    """Times a job, see `benchmarks.speed.sides`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    names = list(WAYS)[: None if device == "cuda" else 1]
    ways = {name: prepare(job, device, *WAYS[name]) for name in names}
    print("ready", flush=True)
    for _ in sys.stdin:
        rows = {name: take_turn() for name, take_turn in ways.items()}
        print(json.dumps({"rows": rows, "version": f"PyTorch {torch.__version__}"}), flush=True)


def prepare(job: dict, device: str, amp: bool, compiled: str | None):
    """Takes the first step of one way to train; returns a function that takes a turn."""

    def allocated() -> int:
        return torch.cuda.memory_allocated() if device == "cuda" else 0

    before = allocated()
    torch.manual_seed(0)
    model, channels = job["model"], job["model"]["channels"]
    if model["name"] == "cnn":
        network = build_cnn(model["layers"], channels)
    else:
        network = build_resnet(channels, model["width"])
    network = network.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, fused=device == "cuda")
    forward = torch.compile(network, mode=compiled) if compiled else network
    images = torch.randint(0, 256, (IMAGES, 48, 48), dtype=torch.uint8, device=device)
    labels = torch.randint(0, 7, (IMAGES,), device=device)
    index = torch.arange(48, device=device)
    reach = round(job["shift"] * 48)

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        """Returns a shifted and flipped batch, by the same gather as ours."""
        rows = torch.randint(0, IMAGES, (job["batch_size"],), device=device)
        down, right = torch.randint(-reach, reach + 1, (2, len(rows), 1), device=device)
        y, x = (index - down).clamp(0, 47), (index - right).clamp(0, 47)
        if job["flip"]:
            x = torch.where(torch.rand(len(rows), 1, device=device) < 0.5, 47 - x, x)
        batch = images[rows[:, None, None], y[:, :, None], x[:, None, :]]
        return batch, labels[rows]

    def step(batch: torch.Tensor, targets: torch.Tensor) -> None:
        x = (batch[:, None].float() / 255).expand(-1, channels, -1, -1)
        x = x.contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            loss = nn.functional.cross_entropy(forward(x), targets)
        loss.backward()
        optimizer.step()

    def clock() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def rate(draw) -> float:
        steps, started = -2, 0.0
        while steps < 1 or time.perf_counter() - started < job["seconds"]:
            if steps == 0:
                started = clock()
            step(*draw())
            steps += 1
        return steps * job["batch_size"] / (clock() - started)

    fixed = draw()
    started = clock()
    step(*fixed)
    first_step = clock() - started
    own = allocated() - before

    def take_turn() -> dict[str, float]:
        others = allocated() - own
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        rates = {"step": rate(lambda: fixed), "end_to_end": rate(draw)}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if device == "cuda":
            peak = torch.cuda.max_memory_allocated() - others
        # The memory of a CUDA graph does not count as allocated.
        peak_mib = None if compiled == "reduce-overhead" else peak / 2**20
        return {"first_step": first_step, **rates, "peak_mib": peak_mib}

    return take_turn


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
