"""Record a run in its folder with sacred, writing files atomically."""

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
from util.io.files import atomic_write, write_text
from util.io.json_files import read_json

# torchrun's id of this process's job; the same after each restart.
JOB_ID = os.environ.get("TORCHELASTIC_RUN_ID")
if JOB_ID == "none":  # torchrun's default
    JOB_ID = None

UNKNOWN_COMMIT = {"url": "unknown", "commit": "unknown", "dirty": None}


def read_job_id(run_dir: Path) -> str | None:
    """Read torchrun's id of the job that made a run; None if unknown."""
    meta = (read_json(run_dir / "run.json", dict) or {}).get("meta")
    return meta.get("job") if isinstance(meta, dict) else None


class RunRecord(FileStorageObserver):
    """Sacred's file observer with atomic writes.

    If the record cannot be written, a run does not start; once started, it continues with one warning.
    """

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        """Initialise the observer, as sacred calls it."""
        super().initialize(*args, **kwargs)
        self._is_started = False
        self._has_warned = False

    def started_event(
        self, ex_info: dict[str, Any], *args: Any, meta_info: Mapping[str, Any], **kwargs: Any
    ) -> Any:
        """Create the run folder and its first files.

        Raises `UserError` if they cannot be written; no folder is left then.
        """
        self.dir = None
        try:
            if not ex_info.get("repositories"):
                ex_info["repositories"] = [UNKNOWN_COMMIT]
            started = super().started_event(ex_info, *args, meta_info={**meta_info, "job": JOB_ID}, **kwargs)
        except FileExistsError as error:
            raise UserError(f"--id: {error.filename} exists; leave --id out, or give another one") from error
        except (OSError, UserError) as error:
            if self.dir is not None:
                shutil.rmtree(self.dir, ignore_errors=True)
            if isinstance(error, UserError):
                raise
            reason = error.strerror or error
            raise UserError(
                f"path.log_dir: {self.basedir} cannot be written ({reason}); "
                "free some space or choose another folder"
            ) from error
        self._is_started = True
        return started

    def interrupted_event(self, *args: Any, **kwargs: Any) -> None:
        """Record that the run was interrupted, if it had started."""
        if self._is_started:
            super().interrupted_event(*args, **kwargs)

    def failed_event(self, *args: Any, **kwargs: Any) -> None:
        """Record that the run failed, if it had started."""
        if self._is_started:
            super().failed_event(*args, **kwargs)

    def save_json(self, obj: Any, filename: str) -> None:
        """Write a JSON file of the record atomically."""
        text = json.dumps(flatten(obj), sort_keys=True, indent=2)
        self._write(lambda: write_text(Path(self.dir) / filename, text))

    def save_cout(self) -> None:
        """Append the captured output."""
        self._write(super().save_cout)

    def _make_run_dir(self, _id: str | None) -> None:
        if _id is None:
            super()._make_run_dir(_id)
        else:  # sacred would reuse an existing folder
            os.makedirs(self.basedir, exist_ok=True)
            self._make_dir(_id)

    def find_or_save(self, filename: str, store_dir: Path) -> Path:
        """Copy a file to the store, named after its content, and return the path."""
        source = Path(filename)
        target = store_dir / f"{source.stem}_{get_digest(filename)}{source.suffix}"
        if not target.exists():
            with atomic_write(target) as temporary:
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
