"""``catwalk defend``: a trained network behind input operations, as a checkpoint of its own."""

from pathlib import Path

from rich.console import Console

from catwalk.networks.defended import write_defended_checkpoint
from catwalk.processing import Operation


def defend(checkpoint: Path, output: Path, operations: list[Operation] | None = None) -> None:
    """Write a trained network's checkpoint anew, behind input operations; nothing is trained.

    Every command takes the new checkpoint as it takes the old one: the operations are applied before the network sees
    an image, and attacks go through them.

    Args:
        checkpoint: Checkpoint of the network, which `catwalk fit` wrote.
        output: Where to write.
        operations: What happens to images first, in order, such as catwalk.processing.JPEG, before what the checkpoint
            has already. The files in configs/processing state some.

    Raises:
        CatwalkError: If the checkpoint is no product classifier's, or there are no operations.
    """
    write_defended_checkpoint(checkpoint, operations or [], output)
    names = ", ".join(type(operation).__name__ for operation in operations or [])
    Console().print(f"• {checkpoint} behind {names} is {output}", highlight=False, markup=False, soft_wrap=True)
