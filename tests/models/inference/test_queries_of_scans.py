"""Organs in query scans, against the network called slice by slice."""

import torch

from models.factory import build_network
from models.inference.scan import OrganQuery, resize_slices, segment_queries
from models.inference.segmenters import CopySegmenter, NetworkSegmenter

CPU = torch.device("cpu")


def _network():
    return build_network(seed=3, encoder_weights=None, encoder="resnet18", feature_width=8).eval()


def _query(query_id, label, parts, *, size_px=(40, 40)):
    generator = torch.Generator().manual_seed(7)
    images = torch.randn(6, 1, 40, 40, generator=generator)
    labels = torch.zeros(6, 40, 40, dtype=torch.int64)
    labels[1:5, 4:20, 4:24] = 1
    labels[2:4, 24:36, 20:36] = 2
    return OrganQuery(
        support_id=0,
        query_id=query_id,
        label=label,
        support_images=images,
        support_labels=labels,
        support_slices=[2, 3],
        query_images=torch.randn(5, 1, 40, 40, generator=torch.Generator().manual_seed(query_id)),
        slices=torch.tensor([0, 2, 3]),
        parts=torch.tensor(parts),
        size_px=size_px,
    )


def test_each_slice_is_segmented_from_the_support_slice_of_its_part():
    queries = [_query(1, 1, [0, 0, 1]), _query(2, 2, [0, 1, 1]), _query(1, 2, [1, 1, 1], size_px=(30, 50))]
    result = list(segment_queries(NetworkSegmenter(_network()), queries, device=CPU))
    assert [position for position, _ in result] == [0, 2, 1]  # scan by scan
    plain = _network()
    for position, probabilities in result:
        query = queries[position]
        expected = []
        for index, part in zip(query.slices.tolist(), query.parts.tolist(), strict=True):
            z = query.support_slices[part]
            mask = (query.support_labels[z] == query.label).float()
            with torch.no_grad():
                both = plain.predict(
                    query.support_images[z][None, None],
                    mask[None, None],
                    query.query_images[index][None, None],
                )
            expected.append(both[0, 0, 1])
        expected = resize_slices(torch.stack(expected), query.size_px)
        torch.testing.assert_close(probabilities, expected, rtol=1e-3, atol=1e-4)


def test_a_copied_mask_is_the_support_slice_s():
    ((_, result),) = segment_queries(CopySegmenter(), [_query(1, 1, [0, 1, 1])], device=CPU)
    assert result.shape == (3, 40, 40)
    assert result.sum(dim=(1, 2)).tolist() == [16 * 20] * 3


def test_no_queries_give_no_results():
    assert list(segment_queries(CopySegmenter(), [], device=CPU)) == []
