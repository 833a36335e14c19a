"""A small convolutional network for small images."""

from torch import nn


def compact_cnn(width: int = 16, num_classes: int = 10) -> nn.Sequential:
    """Return a small convolutional network for small images, quick on a CPU.

    Four 3×3 convolutions with batch normalisation, two of which halve the resolution, then the global average pool.

    Args:
        width: Channels of the first layer; the last has eight times as many, which is the number of features.
        num_classes: Number of outputs.
    """

    def convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        )

    return nn.Sequential(
        convolution(3, width, 1),
        convolution(width, 2 * width, 2),
        convolution(2 * width, 4 * width, 2),
        convolution(4 * width, 8 * width, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8 * width, num_classes),
    )
