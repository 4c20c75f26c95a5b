import numpy as np

from bench.synthetic import chaost2_layout, write_dataset
from data.datasets import find_spec
from util.io.image_io import read_volume


def test_every_scan_shows_the_organs_that_a_training_requires_of_its_support(tmp_path):
    write_dataset(tmp_path, 1, with_supervoxels=True)
    labels, _ = read_volume(chaost2_layout(tmp_path).label_path(0))
    for label in find_spec("CHAOST2").labels:
        assert np.sum((labels == label).any(axis=(1, 2))) >= 3
