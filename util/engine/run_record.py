"""Keep a run's record in its folder.

Neither a kill nor a full disk leaves half a file.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sacred.dependencies import get_digest
from sacred.observers import FileStorageObserver
from sacred.serializer import flatten

from util.errors import UserError
from util.io.files import replaced_file, write_text

# What torchrun calls the job that this process belongs to; the same after each of its restarts.
JOB = os.environ.get("TORCHELASTIC_RUN_ID")
if JOB == "none":  # what it says where it was given no name
    JOB = None


UNKNOWN_COMMIT = {"url": "unknown", "commit": "unknown", "dirty": None}


def job_of(run_dir: Path) -> str | None:
    """Return torchrun's name of the job that made a run; None where there is none."""
    try:
        return json.loads((run_dir / "run.json").read_text(encoding="utf-8"))["meta"].get("job")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


class RunRecord(FileStorageObserver):
    """Sacred's folder of a run, with files that are replaced whole.

    A record that cannot be written ends a run before it starts, and costs one warning afterwards: what was
    trained is worth more.
    """

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        """Prepare as sacred does."""
        super().initialize(*args, **kwargs)
        self._is_started = False
        self._has_warned = False

    def started_event(
        self, ex_info: dict[str, Any], *args: Any, meta_info: Mapping[str, Any], **kwargs: Any
    ) -> Any:
        """Make the run's folder and its first files.

        Raises `UserError`, and leaves no folder, where they cannot be written.
        """
        self.dir = None
        try:
            if not ex_info.get("repositories"):
                ex_info["repositories"] = [UNKNOWN_COMMIT]
            started = super().started_event(ex_info, *args, meta_info={**meta_info, "job": JOB}, **kwargs)
        except FileExistsError as error:
            raise UserError(f"--id: {error.filename} exists; leave --id out, or give another one") from error
        except (OSError, UserError) as error:
            if self.dir is not None:
                shutil.rmtree(self.dir, ignore_errors=True)
            if isinstance(error, UserError):
                raise
            told = error.strerror or error
            raise UserError(
                f"path.log_dir: {self.basedir} cannot be written ({told}); free some space or choose another"
            ) from error
        self._is_started = True
        return started

    def interrupted_event(self, *args: Any, **kwargs: Any) -> None:
        """Note that the run was stopped, if it had begun."""
        if self._is_started:
            super().interrupted_event(*args, **kwargs)

    def failed_event(self, *args: Any, **kwargs: Any) -> None:
        """Note that the run failed, if it had begun."""
        if self._is_started:
            super().failed_event(*args, **kwargs)

    def save_json(self, obj: Any, filename: str) -> None:
        """Replace a file of the record in one step."""
        text = json.dumps(flatten(obj), sort_keys=True, indent=2)
        self._write(lambda: write_text(Path(self.dir) / filename, text))

    def save_cout(self) -> None:
        """Append to what was printed."""
        self._write(super().save_cout)

    def _make_run_dir(self, _id: str | None) -> None:
        if _id is None:
            super()._make_run_dir(_id)
        else:  # sacred would take an existing folder for its own
            os.makedirs(self.basedir, exist_ok=True)
            self._make_dir(_id)

    def find_or_save(self, filename: str, store_dir: Path) -> Path:
        """Keep a copy of a file beside the runs.

        It is named after the content; returns its path.
        """
        source = Path(filename)
        target = store_dir / f"{source.stem}_{get_digest(filename)}{source.suffix}"
        if not target.exists():
            with replaced_file(target) as temporary:
                shutil.copyfile(source, temporary)
        return target

    def _write(self, write: Callable[[], None]) -> None:
        try:
            write()
        except (OSError, UserError) as error:
            if not self._is_started:
                raise
            if not self._has_warned:
                self._has_warned = True
                print(f"warning: {self.dir}: the run's record cannot be written ({error})", file=sys.stderr)
