"""The configurations that come with Catwalk; ``--config configs/…`` finds them from any folder."""
