"""Scores whose metrics follow from their Dice, for tests of tables and statistics."""

from dataclasses import replace

from util.evaluation.metrics import VolumeScore

ORGANS = {1: "liver", 2: "right kidney", 3: "left kidney", 4: "spleen"}


def make_score(query_id=5, label=1, dice=0.5, **changes):
    """Make a score of the main support; fields can be set by name."""
    score = VolumeScore(
        method="trained",
        protocol="chunks",
        fold=0,
        support_id=2,
        query_id=query_id,
        label=label,
        organ=ORGANS[label],
        main_support=True,
        n_slices=9,
        dice=dice,
        iou=dice / 2,
        precision=dice,
        recall=dice,
        nsd=dice / 4,
        nsd_tolerance_mm=3.0,
        hd95_mm=10 * (1 - dice),
        assd_mm=2 * (1 - dice),
        true_ml=100.0,
        predicted_ml=100.0 - 20 * (1 - dice),
        volume_error_ml=-20 * (1 - dice),
        volume_error_percent=-20 * (1 - dice),
        is_missed=False,
        is_false=False,
    )
    return replace(score, **changes)


def make_absent(query_id, label, *, is_false=False, **changes):
    """Make a score of a query without the organ."""
    share = float(not is_false)
    return make_score(
        query_id,
        label,
        share,
        iou=share,
        nsd=share,
        hd95_mm=300.0 * is_false,
        assd_mm=300.0 * is_false,
        true_ml=0.0,
        predicted_ml=7.0 * is_false,
        volume_error_ml=7.0 * is_false,
        volume_error_percent=None,
        is_false=is_false,
        **changes,
    )
