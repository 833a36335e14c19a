"""The gradient of a strided convolution with respect to its input, by an ordinary convolution.

Each value of the input meets every stride-th value of the kernel only, and which ones they are depends on its place
modulo the stride. So the gradient is an ordinary convolution that gives one channel for each such place, and these are
interleaved (Shi et al., *Is the deconvolution layer the same as a convolutional layer?*, 2016, arXiv:1609.07009). For
the few channels of images, CPUs compute that two to four times faster than the transposed convolution that PyTorch
calls.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def subpixel_kernel(weight: Tensor, stride: tuple[int, int]) -> Tensor:
    """Return the kernel of the ordinary convolution that gives the gradient of a strided one.

    Args:
        weight: The strided convolution's, ``(O, C, K, L)``.
        stride: Its strides ``(S, T)``.

    Returns:
        ``(C·S·T, O, ⌈K/S⌉, ⌈L/T⌉)``, in channels_last.
    """
    outputs, channels, *size = weight.shape
    steps = [-(-length // step) for length, step in zip(size, stride, strict=True)]
    missing = [count * step - length for count, step, length in zip(steps, stride, size, strict=True)]
    padded = F.pad(weight, (0, missing[1], 0, missing[0]))
    parts = padded.view(outputs, channels, steps[0], stride[0], steps[1], stride[1])
    kernel = parts.flip(2, 4).permute(1, 3, 5, 0, 2, 4).flatten(0, 2)
    return kernel.contiguous(memory_format=torch.channels_last)


def input_gradient(
    gradient: Tensor,
    kernel: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    size: tuple[int, int],
) -> Tensor:
    """Return the gradient with respect to the input of a strided convolution, of one with respect to its output.

    Args:
        gradient: ``(N, O, P, Q)``.
        kernel: Of :func:`subpixel_kernel`.
        stride: The convolution's.
        padding: The convolution's, zeros on both sides.
        size: Height H and width W of the input.

    Returns:
        ``(N, C, H, W)``.
    """
    reach = kernel.shape[2] - 1, kernel.shape[3] - 1
    parts = F.conv2d(gradient, kernel, padding=reach)
    rows, columns = parts.shape[2:]
    whole = parts.view(len(parts), -1, *stride, rows, columns).permute(0, 1, 4, 2, 5, 3)
    whole = whole.reshape(len(parts), -1, rows * stride[0], columns * stride[1])
    # What the strides never reached of the input has no gradient.
    (top, left), (height, width) = padding, size
    missing = max(0, top + height - whole.shape[2]), max(0, left + width - whole.shape[3])
    return F.pad(whole, (0, missing[1], 0, missing[0]))[:, :, top : top + height, left : left + width]


class SubpixelConvolution(torch.autograd.Function):
    """A convolution as it is, whose gradient is :func:`input_gradient`, with respect to its input alone."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, convolution: nn.Conv2d, kernel: Tensor) -> Tensor:
        """Convolve ``(N, C, H, W)``."""
        ctx.kernel, ctx.stride, ctx.padding = kernel, convolution.stride, convolution.padding
        ctx.size = images.shape[2:]
        return convolution._conv_forward(images, convolution.weight, convolution.bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient with respect to the images."""
        return input_gradient(gradient, ctx.kernel, ctx.stride, ctx.padding, ctx.size), None, None
