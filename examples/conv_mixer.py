"""A backbone of your own: any function that returns a classifier, whose last linear layer gives the logits."""

from torch import Tensor, nn


class Residual(nn.Module):
    """Adds what a block makes of its input to the input."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``block(x) + x``."""
        return self.block(inputs) + inputs


def conv_mixer(
    width: int = 64, depth: int = 4, kernel_size: int = 5, patch_size: int = 2, num_classes: int = 10
) -> nn.Sequential:
    """Return a ConvMixer (Trockman and Kolter, "Patches Are All You Need?", TMLR 2023, Metric 2).

    It takes images ``(N, 3, H, W)`` of any size from ``patch_size`` on; its features are the mean over the patches.

    Args:
        width: Channels, and the number of features.
        depth: Number of blocks: a depthwise convolution over places, then one over channels.
        kernel_size: Side of the depthwise convolutions, odd.
        patch_size: Side of the patches into which an image is cut.
        num_classes: Number of outputs.
    """

    def after(convolution: nn.Module) -> nn.Sequential:
        return nn.Sequential(convolution, nn.GELU(), nn.BatchNorm2d(width))

    return nn.Sequential(
        after(nn.Conv2d(3, width, patch_size, stride=patch_size)),
        *(
            nn.Sequential(
                Residual(after(nn.Conv2d(width, width, kernel_size, groups=width, padding="same"))),
                after(nn.Conv2d(width, width, 1)),
            )
            for _ in range(depth)
        ),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, num_classes),
    )
