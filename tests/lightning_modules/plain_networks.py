"""Small backbones for the tests of training; imported by path, also in the processes that tests start."""

from torch import nn


def with_dropout(num_classes: int = 6) -> nn.Sequential:
    """Return a network with everything that has a state: BatchNorm and Dropout."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, num_classes),
    )


def without_statistics(num_classes: int = 6) -> nn.Sequential:
    """Return a network in which an image's result depends on no other image; smooth, so that signs are stable."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.Softplus(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, num_classes)
    )
