"""Runs the rows of a GPU bundle, the most telling first, and writes results.json after each: python3 run.py [SECONDS] [--small]

Needs Python, PyTorch 2.11.0 and nothing else. PyTorch's own time for a training step of the same networks stands beside ours.
"""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch
from torch import nn

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
ROW_S = 120  # at most for one row


def main() -> None:
    small = "--small" in sys.argv
    numbers = [argument for argument in sys.argv[1:] if argument.isdigit()]
    deadline = time.monotonic() + (int(numbers[0]) if numbers else 540)
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    results = {"card": card, "torch": torch.__version__, "small": small, "rows": {}}
    for row in ours([]).stdout.split():
        results["rows"][row] = limited(row, deadline, small)
        RESULTS.write_text(json.dumps(results, indent=1))
        print(row, json.dumps(results["rows"][row]), flush=True)
        if row == "training_step" and time.monotonic() < deadline:
            results["rows"]["training_step of PyTorch"] = pytorch(small)
            RESULTS.write_text(json.dumps(results, indent=1))
            print("PyTorch", results["rows"]["training_step of PyTorch"], flush=True)


def ours(arguments: list[str], **keywords) -> subprocess.CompletedProcess:
    """Our program, with the libraries of the installed PyTorch."""
    libraries = [str(HERE), str(Path(torch.__file__).parent / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
    environment = os.environ | {"LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries))}
    return subprocess.run([HERE / "gpu", *arguments], cwd=HERE, env=environment, capture_output=True, text=True, **keywords)


def limited(row: str, deadline: float, small: bool) -> dict:
    """What the row says, or why it says nothing."""
    left = min(ROW_S, deadline - time.monotonic())
    if left < 1:
        return {"not run": "no time was left"}
    start = time.monotonic()
    with Peak() as peak:
        try:
            result = ours([row, *(["--small"] if small else [])], timeout=left)
        except subprocess.TimeoutExpired:
            return {"not finished": f"after {left:.0f} s"}
    if result.returncode != 0:
        return {"failed": (result.stderr.strip() or f"status {result.returncode}")[-2000:]}
    return json.loads(result.stdout.splitlines()[-1]) | peak.values() | {"row took (s)": round(time.monotonic() - start, 1)}


class Peak:
    """The most memory of the GPU that was in use at a time, besides what was in use before, looked at 20 times a second."""

    def __enter__(self) -> "Peak":
        self.before = self.most = self.used()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.ended.set()
        self.thread.join()

    def watch(self) -> None:
        while not self.ended.wait(0.05):
            self.most = max(self.most, self.used())

    @staticmethod
    def used() -> int:
        if not torch.cuda.is_available():
            return 0
        free, total = torch.cuda.mem_get_info()
        return total - free

    def values(self) -> dict:
        return {"GPU memory (MB)": round((self.most - self.before) / 1e6)} if torch.cuda.is_available() else {}


def pytorch(small: bool) -> dict:
    """Milliseconds of a training step with Adam on noise, in full precision and with TF32."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch, steps = (8, 1) if small else (128, 20)
    values = {}
    for name, network in [("resnet20", resnet20(1 if small else 16)), ("vgg11", vgg11(0.125 if small else 4))]:
        for fast in [False, True]:
            torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = fast
            network = network.to(device)
            optimiser = torch.optim.Adam(network.parameters())
            x = torch.rand(batch * steps, 3, 32, 32, device=device)
            y = torch.randint(10, (batch * steps,), device=device)
            times = [epoch(network, optimiser, x, y, batch, device) for _ in range(3)]
            values[f"{name}, {'TF32' if fast else 'f32'}"] = sorted(times[1:])[0] * 1e3 / steps
    return values


def epoch(network: nn.Module, optimiser: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor, batch: int, device: str) -> float:
    finish = torch.cuda.synchronize if device == "cuda" else lambda: None
    finish()
    start = time.perf_counter()
    for images, labels in zip(x.split(batch), y.split(batch)):
        loss = nn.functional.cross_entropy(network(images), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    finish()
    return time.perf_counter() - start


class Block(nn.Module):
    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out))
        same = stride == 1 and channels == out
        self.way = nn.Identity() if same else nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.way(x))


def resnet20(width: float) -> nn.Module:
    sizes = [int(16 * width), int(32 * width), int(64 * width)]
    layers = [nn.Conv2d(3, sizes[0], 3, 1, 1, bias=False), nn.BatchNorm2d(sizes[0]), nn.ReLU()]
    channels = sizes[0]
    for stage, out in enumerate(sizes):
        for block in range(3):
            layers.append(Block(channels, out, 2 if stage > 0 and block == 0 else 1))
            channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def vgg11(width: float) -> nn.Module:
    layers, channels = [], 3
    for out in [64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"]:
        if out == "M":
            layers.append(nn.MaxPool2d(2))
            continue
        out = int(out * width)
        layers += [nn.Conv2d(channels, out, 3, 1, 1), nn.BatchNorm2d(out), nn.ReLU()]
        channels = out
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, 10))


if __name__ == "__main__":
    main()
