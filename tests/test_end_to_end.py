"""A tiny phantom through everything: supervoxels, training, snapshot, evaluation, prediction files."""

import csv
import itertools
import json
import re
import shlex
import shutil

import nibabel
import numpy as np
import pytest

import training
import validation
from bench import fold as fold_benchmark
from tests.util.evaluation.parsed_page import Page
from tests.util.evaluation.plain_metrics import bootstrap_of_two, measure_plainly, organ_means
from util.config.command_line import run_command_line
from util.engine.runs import list_runs

pytestmark = pytest.mark.usefixtures("narrow_encoder")

FOLD_0 = (0, 1, 2)
SUPPORT = 2
DIGITS = dict.fromkeys(("dice", "iou", "precision", "recall", "nsd"), 3)
DIGITS |= {"hd95_mm": 1, "assd_mm": 2, "volume_error_ml": 1, "volume_error_percent": 1}
ORGANS = {1: "liver", 2: "right_kidney", 3: "left_kidney", 4: "spleen"}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Empty at first: here the training makes the phantom and its supervoxels."""
    return tmp_path_factory.mktemp("made_by_training")


@pytest.fixture(scope="module")
def runs(overrides_for, data_dir, tmp_path_factory, narrow_encoder):
    """Train and evaluate once; the module's tests read what that left."""
    log_dir = tmp_path_factory.mktemp("end_to_end")
    overrides = [*overrides_for(log_dir), f"path.PHANTOM.data_dir={data_dir}"]
    assert run_command_line(training.experiment, overrides) == 0
    assert run_command_line(validation.experiment, overrides) == 0
    return log_dir / "PHANTOM" / "fold_0", overrides


def read_scores(folder):
    with (folder / "scores.csv").open() as file:
        return list(csv.DictReader(file))


def read(path):
    return np.asarray(nibabel.load(path).dataobj)


def test_supervoxels_lie_on_the_images_grids(runs, data_dir):
    for scan_id in range(10):
        image = nibabel.load(data_dir / f"phantom_MR_T2_normalized/image_{scan_id}.nii.gz")
        supervoxels = nibabel.load(data_dir / f"supervoxels_60/superpix-MIDDLE_{scan_id}.nii.gz")
        assert supervoxels.shape == image.shape
        np.testing.assert_allclose(supervoxels.affine, image.affine, atol=1e-4)
        assert supervoxels.get_fdata().max() >= 3


def test_predictions_have_the_querys_full_grid(runs, data_dir):
    folder = runs[0] / "evaluation" / "1" / "predictions" / "chunks"
    for scan_id in set(FOLD_0) - {SUPPORT}:
        image = nibabel.load(data_dir / f"phantom_MR_T2_normalized/image_{scan_id}.nii.gz")
        for organ in ORGANS.values():
            prediction = nibabel.load(folder / f"scan_{scan_id}_{organ}.nii.gz")
            assert prediction.shape == image.shape
            np.testing.assert_allclose(prediction.affine, image.affine, atol=1e-4)
            assert prediction.header.get_zooms() == pytest.approx(image.header.get_zooms(), abs=1e-5)
        assert nibabel.load(folder / f"scan_{scan_id}.nii.gz").shape == image.shape
    assert not list(folder.glob(f"scan_{SUPPORT}*"))


@pytest.fixture(scope="module")
def recomputed(runs, data_dir):
    """Every metric by protocol, query and organ, from the prediction files and the labels alone."""
    result = {}
    for protocol in ("chunks", "all_slices"):
        for scan_id, (label, organ) in itertools.product(set(FOLD_0) - {SUPPORT}, ORGANS.items()):
            labels = nibabel.load(data_dir / f"phantom_MR_T2_normalized/label_{scan_id}.nii.gz")
            true = np.asarray(labels.dataobj) == label
            file = runs[0] / "evaluation/1/predictions" / protocol / f"scan_{scan_id}_{organ}.nii.gz"
            predicted = read(file).astype(bool)
            if protocol == "chunks":
                assert not predicted[..., ~true.any(axis=(0, 1))].any()
            spacing_mm = labels.header.get_zooms()[::-1]
            result[protocol, scan_id, organ] = measure_plainly(
                predicted.T, true.T, spacing_mm=np.array(spacing_mm, float), tolerance_mm=3.0
            )
    return result


def test_every_metric_recomputed_from_the_files_is_that_of_scores_csv(runs, recomputed):
    scores = [
        score
        for score in read_scores(runs[0] / "evaluation" / "1")
        if score["method"] == "trained" and score["main_support"] == "True"
    ]
    assert len(scores) == len(recomputed) == 2 * len(ORGANS) * 2
    for score in scores:
        key = score["protocol"], int(score["query_id"]), ORGANS[int(score["label"])]
        for name, value in recomputed[key].items():
            assert float(score[name]) == pytest.approx(value, rel=1e-5), (key, name)
    assert len({score["hd95_mm"] for score in scores}) > 4  # not all of them missed


def expected_rows(recomputed, protocol):
    """Mean and interval of each organ and metric, as tables print them, by hand: two scans have two means."""
    rows = {}
    for metric, digits in DIGITS.items():
        values = {
            (scan_id, organ): abs(result[metric]) if "volume" in metric else result[metric]
            for (of_protocol, scan_id, organ), result in recomputed.items()
            if of_protocol == protocol
        }
        scans = sorted({scan_id for scan_id, _ in values})
        columns = {organ: [values[scan_id, organ] for scan_id in scans] for organ in ORGANS.values()}
        columns["mean"] = list(organ_means(values).values())
        for organ, pair in columns.items():
            numbers = (np.mean(pair), *bootstrap_of_two(*pair))
            rows.setdefault(organ.replace("_", " "), []).append(tuple(f"{v:.{digits}f}" for v in numbers))
    return rows


@pytest.mark.parametrize("protocol", ["chunks", "all_slices"])
def test_the_tables_of_report_and_paper_hold_the_recomputed_metrics(runs, recomputed, protocol):
    folder = runs[0] / "evaluation" / "1"
    expected = expected_rows(recomputed, protocol)
    tables = Page((folder / "report.html").read_text(encoding="utf-8")).tables
    by_method, by_organ = tables[:2] if protocol == "chunks" else tables[2:4]
    for row in by_organ[1:]:
        assert [tuple(re.findall(r"[\d.]+", cell)) for cell in row[1 : 1 + len(DIGITS)]] == expected[row[0]]
    [trained] = [row for row in by_method if row[0] == "trained"]
    of_dice = [expected[organ][0] for organ in by_method[0][1:]]
    assert [tuple(re.findall(r"[\d.]+", cell)) for cell in trained[1:]] == of_dice
    assert read_latex(folder / "table.tex", f"trained, {protocol}") == expected


def read_latex(path, caption):
    """Read the table of all metrics: organ -> mean and ends of the interval of each metric."""
    caption = caption.replace("_", r"\_")
    [text] = [part for part in path.read_text().split(r"\begin{table}") if rf"\caption{{{caption};" in part]
    header, *rows = [
        line.removesuffix(r" \\").split(" & ") for line in text.splitlines() if line.endswith(r"\\")
    ]
    columns = {organ: [] for organ in header[1:]}
    for means, intervals in zip(rows[::2], rows[1::2], strict=True):
        for organ, mean, interval in zip(columns, means[1:], intervals[1:], strict=True):
            columns[organ].append((mean, *re.fullmatch(r"{\\scriptsize\[(.+), (.+)\]}", interval).groups()))
    return columns


def test_the_table_compares_with_the_baselines(runs):
    methods = {score["method"] for score in read_scores(runs[0] / "evaluation" / "1")}
    baselines = {"untrained", "untrained cosine", "copied support mask", "registration"}
    assert methods == {"trained", *baselines}


def test_copied_masks_score_what_copying_by_hand_scores(runs, data_dir):
    scores = read_scores(runs[0] / "evaluation" / "1")
    [result] = [
        float(s["dice"])
        for s in scores
        if (s["method"], s["query_id"], s["label"]) == ("copied support mask", "0", "1")
    ]
    support, query = (
        read(data_dir / f"phantom_MR_T2_normalized/label_{i}.nii.gz") == 1 for i in (SUPPORT, 0)
    )
    in_support, in_query = (np.flatnonzero(volume.any(axis=(0, 1))) for volume in (support, query))
    cuts = np.linspace(0, len(in_query), 4).astype(int)
    copied = np.zeros_like(query)
    for part, fraction in enumerate((1 / 6, 1 / 2, 5 / 6)):
        source = support[..., in_support[int(fraction * len(in_support))]]
        for z in in_query[cuts[part] : cuts[part + 1]]:
            copied[..., z] = source
    assert result == pytest.approx(2 * (copied & query).sum() / (copied.sum() + query.sum()))


def test_the_same_command_gives_identical_predictions(runs, capsys):
    fold, overrides = runs
    words = [*overrides, "evaluation.every_support=False", "evaluation.baselines=False"]
    assert run_command_line(validation.experiment, words) == 0
    first, second = (fold / "evaluation" / number / "predictions" for number in ("1", "2"))
    files = sorted(path.relative_to(first) for path in first.rglob("*.nii.gz"))
    assert files == sorted(path.relative_to(second) for path in second.rglob("*.nii.gz"))
    assert len(files) == 2 * 2 * 5
    for file in files:
        np.testing.assert_array_equal(read(first / file), read(second / file))
    out = capsys.readouterr().out
    assert "training/1/snapshots/snapshot_000003.pt" in out
    assert int(fold_benchmark.SLICE_RATE.search(out)[1]) > 0
    assert float(fold_benchmark.EVALUATED.search(out)[2]) > 0


def test_a_snapshot_or_a_run_folder_can_be_named(runs, capsys):
    fold, overrides = runs
    quick = [*overrides, "evaluation.baselines=False", "evaluation.every_support=False"]
    quick += ["evaluation.all_slices=False", "evaluation.save_predictions=False", "test_label=[1]"]
    for name in ("training/1", "training/1/snapshots/snapshot_000002.pt"):
        assert run_command_line(validation.experiment, [*quick, f"reload_model_path={fold / name}"]) == 0
    output = capsys.readouterr().out
    assert "snapshot_000003.pt, step 3" in output
    assert "snapshot_000002.pt, step 2" in output


def test_summary_joins_the_folds_that_were_evaluated(runs, capsys):
    fold, overrides = runs
    assert run_command_line(validation.experiment, ["summarise", *overrides]) == 0
    output = capsys.readouterr().out
    assert "not evaluated yet: folds 1, 2, 3, 4" in output
    summary = json.loads((fold.parent / "summary" / "scores.json").read_text())["summary"]
    assert set(summary["means"]["trained"]) >= {"chunks"}
    report = fold.parent / "summary" / "report.html"
    assert output.strip().splitlines()[-1].endswith(f": {report}")
    thumbnails = re.findall(r'<li class="thumbnail".* data-dice="([^"]+)"', report.read_text())
    newest = list_runs(fold / "evaluation")[0]
    assert sorted(map(float, thumbnails)) == sorted(
        float(score["dice"]) for score in read_scores(newest) if score["method"] == "trained"
    )


def test_the_report_shows_each_query_with_its_dice_and_the_errors_of_the_files(runs, phantom_dir):
    folder = runs[0] / "evaluation" / "1"
    cases = json.loads((folder / "report_cases.json").read_text())["cases"]
    page = (folder / "report.html").read_text()
    assert len(cases) == 2 * len(ORGANS) * 2
    for case in cases:
        score = case["score"]
        assert f'data-dice="{score["dice"]}"' in page
        name = f"scan_{score['query_id']}_{ORGANS[score['label']]}.nii.gz"
        predicted = read(folder / "predictions" / score["protocol"] / name).astype(bool)
        true = read(phantom_dir / f"phantom_MR_T2_normalized/label_{score['query_id']}.nii.gz")
        true = true == score["label"]
        for pair in case["pairs"]:
            errors = [
                (a & ~b)[..., pair["slice_idx"]].sum() for a, b in ((predicted, true), (true, predicted))
            ]
            bars = [re.findall(r"h(\d+)v", pair[name]) for name in ("false_positives", "false_negatives")]
            assert [sum(map(int, lengths)) for lengths in bars] == errors


def test_the_reports_commands_give_the_same_scores(runs, tmp_path):
    folder = runs[0] / "evaluation" / "1"
    train, evaluate = json.loads((folder / "scores.json").read_text())["summary"]["commands"]
    assert {"n_steps=3", "model.feature_width=8"} <= set(shlex.split(train))
    words = shlex.split(evaluate)[2:]
    quick = [f"path.log_dir={tmp_path}", "evaluation.baselines=False", "evaluation.report=False"]
    assert run_command_line(validation.experiment, ["with", *words, *quick]) == 0
    again = tmp_path / "PHANTOM/fold_0/evaluation/1"
    trained = [score for score in read_scores(folder) if score["method"] == "trained"]
    assert [score for score in read_scores(again) if score["main_support"] == "True"] == trained
    assert not (again / "report.html").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("eval_fold=1", "holds no trained run; train first"),
        ("supp_idx=3", "supp_idx=3: the fold holds 3 scans"),
        ("model.feature_width=9", "model.feature_width=9: the snapshot was trained with 8"),
        ("image_size_px=[64, 64]", "the snapshot was trained with None"),
    ],
)
def test_an_evaluation_that_cannot_be_meant_is_refused(runs, override, message, capsys):
    assert run_command_line(validation.experiment, [*runs[1], override]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_damaged_snapshot_is_refused(runs, tmp_path, capsys):
    fold, overrides = runs
    damaged = tmp_path / "snapshot_000003.pt"
    shutil.copy(fold / "training/1/snapshots/snapshot_000003.pt", damaged)
    damaged.write_bytes(damaged.read_bytes()[:-1000])
    assert run_command_line(validation.experiment, [*overrides, f"reload_model_path={damaged}"]) == 2
    assert "damaged or not a snapshot" in capsys.readouterr().err


def test_registration_guides_the_network_and_intensities_refine_its_predictions(runs, data_dir):
    fold, overrides = runs
    words = [*overrides, "evaluation.guide=registration", "evaluation.baselines=False"]
    words += ["evaluation.every_support=False", "evaluation.report=False", "evaluation.intensity_weight=1"]
    assert run_command_line(validation.experiment, words) == 0
    run_dir = list_runs(fold / "evaluation")[0]
    scores = read_scores(run_dir)
    methods = ("trained", "trained + registration", "trained + registration + intensities")
    assert {score["method"] for score in scores} == set(methods)
    network, guided, refined = (
        [float(score["dice"]) for score in scores if score["method"] == method] for method in methods
    )
    assert len(network) == len(guided) == len(refined) > 0
    assert sum(refined) > sum(guided) > sum(network)
    for score in (score for score in scores if score["method"] == methods[-1]):
        name = f"scan_{score['query_id']}_{ORGANS[int(score['label'])]}.nii.gz"
        predicted = read(run_dir / "predictions" / score["protocol"] / name).astype(bool)
        organ = read(data_dir / f"phantom_MR_T2_normalized/label_{score['query_id']}.nii.gz") == int(
            score["label"]
        )
        if score["protocol"] == "all_slices":
            dice = 2 * np.sum(predicted & organ) / (predicted.sum() + organ.sum())
            assert float(score["dice"]) == pytest.approx(dice, abs=1e-4)


@pytest.mark.parametrize(("organs", "n_networks"), [("jointly", 1), ("separately", 4)])
def test_an_adapted_network_predicts_beside_the_trained_one(organs, n_networks, runs, tmp_path, capsys):
    fold, overrides = runs
    snapshot = fold / "training" / "1"
    shutil.copytree(fold.parent / "registrations", tmp_path / "PHANTOM/registrations")  # saves seconds
    words = [*overrides, f"path.log_dir={tmp_path}", f"reload_model_path={snapshot}", "adaptation.steps=2"]
    words += [f"adaptation.organs={organs}", "evaluation.guide=registration", "evaluation.baselines=False"]
    words.append("evaluation.every_support=False")
    assert run_command_line(validation.experiment, words) == 0
    out = capsys.readouterr().out
    assert out.count("2 steps in") == n_networks
    # Two queries: of each organ and protocol the worst and the best, each in one or two slices.
    assert 2 * len(ORGANS) * 2 <= int(re.search(r"prior masks for the report: (\d+)", out)[1])
    assert len(list((tmp_path / "PHANTOM/adapted").glob("*.pt"))) == n_networks
    run_dir = tmp_path / "PHANTOM/fold_0/evaluation/1"
    scores = read_scores(run_dir)
    methods = ("trained", "trained + registration", "adapted", "adapted + registration")
    for method in methods:
        of_method = [score for score in scores if score["method"] == method]
        assert [score["label"] for score in of_method] == [score["label"] for score in scores][
            : len(of_method)
        ]
    assert run_command_line(validation.experiment, [*words, "evaluation.report=False"]) == 0
    assert "2 steps in" not in capsys.readouterr().out  # taken from the cache
    assert read_scores(tmp_path / "PHANTOM/fold_0/evaluation/2") == scores
