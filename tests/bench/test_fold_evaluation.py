"""What the default evaluation of a fold costs, counted and described."""

from bench.fold_evaluation import _count_work, make_remark
from models.inference.segmenters import CopySegmenter


def test_the_remark_compares_the_work_of_the_default_with_that_of_chunks():
    parts = {
        "chunks": {"n_encoded": 40, "n_pairs": 100},
        "chunks and all slices (default)": {"n_encoded": 50, "n_pairs": 190},
    }
    assert make_remark(parts).startswith(
        "With the first network, all slices need 1.25 times as many encoded slices and 1.90 times as many "
    )


class _Encoding:
    """Encoded slices, as far as they are counted."""

    def __init__(self, n_slices):
        self.features = type("Features", (), {"shape": (1, n_slices)})()


def test_work_is_counted_in_slices_pairs_and_calls():
    segmenter = CopySegmenter()
    segmenter.segment_each = lambda supports, encoding, **options: options["per_call"]
    work = _count_work(segmenter)
    assert segmenter.encode(iter([[0, 1], [2]])).n_slices == 3
    assert segmenter.segment_each(["a", "b"], _Encoding(3), per_call=7) == 7
    segmenter.segment_each(["a"], _Encoding(1), per_call=1)
    assert work == {"n_encoded": 3, "n_pairs": 2 * 3 + 1, "n_calls": 2}
