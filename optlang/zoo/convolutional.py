"""Two convolutional nets for the handwritten digits: one with shortcuts, one with depthwise convolutions."""

from __future__ import annotations

from torch import Tensor, nn


class Shortcut(nn.Module):
    """Two 3x3 convolutions with a shortcut; one ReLU serves both, as in most published residual nets.

    (N, inputs, H, W) to (N, outputs, H / stride, W / stride). Where the shape changes, the shortcut is a 1x1
    convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, images: Tensor) -> Tensor:
        """Add what the convolutions found to the shortcut."""
        found = self.relu(self.first_norm(self.first(images)))
        added: Tensor = self.relu(self.second_norm(self.second(found)) + self.shortcut(images))
        return added


def residual_cnn(width: int = 16) -> nn.Sequential:
    """A residual net for 8x8 images: (N, 1, 8, 8) to (N, 10) logits; 77,754 parameters at 16.

    Three blocks of `width`, twice and four times `width` channels, each at half the resolution of the one before; then
    the mean over the image and one linear layer. After He et al., Deep Residual Learning for Image Recognition
    (CVPR 2016).
    """
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        Shortcut(width, width, 1), Shortcut(width, 2 * width, 2), Shortcut(2 * width, 4 * width, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10),
    )


class Inverted(nn.Module):
    """An inverted residual: widen four times by 1x1, one filter a channel by 3x3, narrow by 1x1 without activation.

    (N, inputs, H, W) to (N, outputs, H / stride, W / stride), added to the input where the shapes are the same.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide = 4 * inputs
        self.expand = nn.Sequential(nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6())
        self.depthwise = nn.Sequential(
            nn.Conv2d(wide, wide, 3, stride=stride, padding=1, groups=wide, bias=False), nn.BatchNorm2d(wide),
            nn.ReLU6(),
        )
        self.project = nn.Sequential(nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, images: Tensor) -> Tensor:
        """Widen, filter each channel, narrow."""
        found: Tensor = self.project(self.depthwise(self.expand(images)))
        return images + found if self.adds else found


def depthwise_cnn(width: int = 16) -> nn.Sequential:
    """A net of inverted residuals for 8x8 images: (N, 1, 8, 8) to (N, 10) logits; 19,802 parameters at 16.

    A convolution, three inverted residuals (of `width`, then twice at half the resolution of twice `width` channels), a
    1x1 convolution, the mean over the image and one linear layer. After Sandler et al., MobileNetV2 (CVPR 2018).
    """
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU6(),
        Inverted(width, width, 1), Inverted(width, 2 * width, 2), Inverted(2 * width, 2 * width, 1),
        nn.Conv2d(2 * width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width), nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10),
    )
