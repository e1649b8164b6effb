"""Makes the state dicts and logits that tests/pytorch.rs compares with: python tests/pytorch/make_fixtures.py

Needs the packages torch (made with 2.11.0), numpy and safetensors. The modules are written here in the way of
torchvision's, for 3 x 32 x 32; their running statistics come from one pass over random images.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).resolve().parent


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class ResNet20(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for stage in range(3):
            outputs = width * 2**stage
            blocks = [Block(inputs if i == 0 else outputs, outputs, 2 if stage and i == 0 else 1) for i in range(3)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            inputs = outputs
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(inputs, 10)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))


class Vgg11(nn.Module):
    def __init__(self, width):
        super().__init__()
        layers, inputs = [], 3
        for entry in [1, "M", 2, "M", 4, 4, "M", 8, 8, "M", 8, 8, "M"]:
            if entry == "M":
                layers.append(nn.MaxPool2d(2))
            else:
                outputs = entry * width
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
                inputs = outputs
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, 10)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 10))


def main():
    torch.manual_seed(0)
    for name, module, shape in [("resnet20", ResNet20(8), (3, 32, 32)), ("vgg11", Vgg11(4), (3, 32, 32)),
                                ("mlp", mlp(), (1, 8, 8))]:
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.2 * torch.randn_like(parameter))
            module.train()
            module(torch.randn(64, *shape))
            module.eval()
            x = torch.randn(4, *shape)
            save_file(module.state_dict(), HERE / f"{name}.safetensors")
            save_file({"x": x, "logits": module(x)}, HERE / f"{name}_logits.safetensors")


if __name__ == "__main__":
    main()
