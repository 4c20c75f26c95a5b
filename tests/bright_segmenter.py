"""What segments slices without a network: everything that is bright."""

import torch

from models.inference.segmenters import SupportSegmenter


class BrightSegmenter(SupportSegmenter):
    """Finds what is bright, whatever the support shows; unsure if `sure` is near 1/2."""

    uses_queries = True

    def __init__(self, sure=1.0, threshold=2.0):
        self.sure, self.threshold = sure, threshold

    def encode(self, batches):
        return torch.cat(list(batches))

    def take(self, encoding, positions):
        return encoding[positions]

    def join(self, encodings):
        return torch.cat(list(encodings))

    def prepare(self, encoding, masks):
        return None

    def segment(self, support, encoding, *, image_size):
        return torch.where(encoding[:, 0] > self.threshold, self.sure, 1 - self.sure)
