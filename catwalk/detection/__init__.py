"""How well detectors tell the images of attacks from a shop's clean ones."""
