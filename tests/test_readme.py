"""README and docs say what the code does, and lead to files that exist."""

import re
import shlex
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from config_ssl_upload import DATASETS, Config, dataset_defaults
from data.prediction_settings import PredictConfig
from dataloaders.splits import fold_scan_ids
from util.config.key_value_words import parse_words
from util.config.settings import markdown_table

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
IMAGES = sorted(path for path in (ROOT / "docs" / "images").glob("*") if path.is_file())
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
MAX_README_LINES, MAX_IMAGE_BYTES = 199, 200_000

CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)")
FOLDERS = "script|models|dataloaders|data|util|bench|tests|docs"
ENTRIES = "config_ssl_upload|training|validation|prediction"
FILE = re.compile(rf"(?<![\w/.])((?:{FOLDERS})/[\w/]+\.(?:py|pyx|sh|sbatch)|(?:{ENTRIES})\.py)\b")
MODULE = re.compile(r"python -m ([\w.]+)")


def read(page):
    return page.read_text(encoding="utf-8")


def flattened(values, prefix=""):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}={value}"


def anchors(text):
    """List the anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def dead_links(text, folder):
    """List the relative links and images that lead nowhere, in the text of a page in `folder`."""
    dead = []
    for path, anchor in LINK.findall(CODE.sub("", text)):
        target = folder / path
        is_dead = not target.exists()
        if anchor and not is_dead:
            is_dead = anchor not in anchors(read(target) if path else text)
        if is_dead:
            dead.append(f"{path}#{anchor}" if anchor else path)
    return dead


def missing_files(text):
    """List the files and modules that a page's code names and the repository lacks."""
    code = "\n".join(CODE.findall(text))
    missing = [name for name in FILE.findall(code) if not (ROOT / name).is_file()]
    return missing + [name for name in MODULE.findall(code) if find_spec(name) is None]


def commands(page, script):
    """List the words of each call of a script in a page's blocks of commands, but for abridged ones."""
    blocks = re.findall(r"```bash\n(.*?)```", read(page), flags=re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    calls = [shlex.split(line, comments=True) for line in lines if line.startswith(f"bash {script}")]
    return [words[2:] for words in calls if "..." not in words]


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "prediction.md"], ids=lambda page: page.name)
def test_the_keys_of_documented_predictions_exist_and_fit_together(page):
    calls = commands(page, "script/predict.sh")
    assert calls
    for words in calls:
        assert parse_words(PredictConfig, words).method_problems() == []


def test_the_first_try_takes_few_steps_and_scans_of_the_fold_that_training_leaves_out():
    page = ROOT / "docs" / "prediction.md"
    [training] = commands(page, "script/train.sh")
    [first_try] = [words for words in commands(page, "script/predict.sh") if "PHANTOM" in words[0]]
    assert {"dataset=PHANTOM", "eval_fold=0"} < set(training)
    assert "reload_model_path=runs/PHANTOM/fold_0/training/1" in first_try
    assert "query=$scans/image_[0-4].nii.gz" in first_try
    assert fold_scan_ids(range(20), 0) == [0, 1, 2, 3, 4]


def test_the_readme_is_short():
    assert len(read(README).splitlines()) <= MAX_README_LINES


def test_the_readme_links_to_every_page_of_the_docs():
    text = read(README)
    assert len(DOCS) >= 5
    assert [page.name for page in DOCS if f"(docs/{page.name})" not in text] == []


def test_configuration_table_is_the_code_s():
    assert markdown_table(Config) in CONFIGURATION, "paste the output of `python config_ssl_upload.py`"


def test_defaults_that_phantom_changes_are_documented():
    usual = {*flattened(dataset_defaults("CHAOST2")), "dataset=PHANTOM"}
    changed = [override for override in flattened(dataset_defaults("PHANTOM")) if override not in usual]
    assert len(changed) > 5
    recipe = f"recipe={DATASETS['PHANTOM'].recipe}"
    assert [override for override in (recipe, *changed) if f"`{override}`" not in CONFIGURATION] == []


@pytest.mark.parametrize("page", [README, *DOCS], ids=lambda page: page.name)
def test_files_and_modules_that_are_named_exist(page):
    assert missing_files(read(page)) == []


def test_named_files_are_found_in_the_pages():
    named = {name for page in (README, *DOCS) for name in FILE.findall("\n".join(CODE.findall(read(page))))}
    assert {"script/train.sh", "models/few_shot_seg.py", "training.py"} <= named


@pytest.mark.parametrize("page", [README, *DOCS], ids=lambda page: page.name)
def test_relative_links_and_images_lead_to_files_and_headings(page):
    assert dead_links(read(page), page.parent) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[page](docs/data.md), [site](https://example.org/none), ![](docs/images)", []),
        ("# A b: `c`\n\n[here](#a-b-c) [there](docs/data.md#supervoxels)", []),
        ("`[code](none.md)`", []),
        ("[page](docs/none.md) ![picture](none.png)", ["docs/none.md", "none.png"]),
        ("# One\n\n[two](#two) [none](docs/data.md#none)", ["#two", "docs/data.md#none"]),
    ],
)
def test_a_dead_link_would_be_found(text, expected):
    assert dead_links(text, ROOT) == expected


def test_a_missing_file_or_module_would_be_found():
    text = (
        "`models/none.py` `training.py` util/none.py\n\n```bash\nbash script/no.sh\npython -m bench.none\n```"
    )
    assert missing_files(text) == ["models/none.py", "script/no.sh", "bench.none"]


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)
def test_images_are_small_and_tracked_by_git(image):
    assert image.stat().st_size <= MAX_IMAGE_BYTES
    if (ROOT / ".git").exists():
        ignored = subprocess.run(["git", "check-ignore", "-q", str(image)], cwd=ROOT, check=False)
        assert ignored.returncode != 0
