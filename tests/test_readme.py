"""The README says what the code does."""

import re
from pathlib import Path

from config_ssl_upload import DATASET_DEFAULTS, Config
from util.config.settings import markdown_table

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def flattened(values, prefix=""):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}={value}"


def test_configuration_table_is_the_code_s():
    assert markdown_table(Config) in README, "paste the output of `python config_ssl_upload.py`"


def test_defaults_that_phantom_changes_are_told():
    for override in flattened(DATASET_DEFAULTS["PHANTOM"]):
        assert f"`{override}`" in README


def test_files_and_folders_that_are_named_exist():
    named = re.findall(r"`((?:script|models|dataloaders|data|util|bench)/[\w/]+\.(?:py|sh|pyx))`", README)
    named += re.findall(r"^bash (script/\w+\.sh)", README, flags=re.MULTILINE)
    assert len(named) > 5
    assert [name for name in named if not (ROOT / name).exists()] == []
