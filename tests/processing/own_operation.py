"""An operation of a user's own."""

from catwalk.processing import Operation


class Inverted(Operation):
    def __init__(self, strength=1.0):
        super().__init__()
        self.strength = strength

    def forward(self, images, draw=0):
        return images + self.strength * (1 - 2 * images)
