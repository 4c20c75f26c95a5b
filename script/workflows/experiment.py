"""Make a command's sacred experiment: its defaults, checks and resumed runs."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from config_ssl_upload import REPOSITORY, Config, dataset_defaults, parse_config
from data.datasets import DATASETS, path_group
from models.encoder_weights import PUBLISHED
from util.config.command_line import new_experiment, remark_on_unknown_commit, sacred
from util.config.settings import default_values, merge_values, parse_values, plain_values, with_present_names
from util.engine.resume import adopt_values, choose_former_run, former_settings
from util.engine.run_record import RunRecord
from util.engine.runs import BEST, list_resumable
from util.engine.training_choice import choose_training, read_training_config
from util.errors import UserError
from util.io.files import make_folder
from util.io.folders import check_folder
from util.io.tensor_files import read_tensors
from util.parallel.ranks import find_ranks
from util.remarks import remark

# Of sys or fd, the first: the second can deadlock with worker processes.
sacred.SETTINGS.CAPTURE_MODE = "sys"


def make_experiment(kind: str, *, preflight: Callable[[Config], None] | None = None) -> sacred.Experiment:
    """Make a sacred experiment.

    Its runs lie under `<log_dir>/<dataset>/fold_<k>/<kind>/<number>`. The configuration is checked before a
    run starts, also by `preflight`, so that a mistake leaves no run behind.
    """
    experiment = new_experiment(kind, REPOSITORY)
    if kind == "evaluation":
        experiment.configurations.append(partial(_evaluate_defaults, complete=_with_training_paths))
    else:
        experiment.configurations.append(_evaluate_defaults)

    @experiment.config_hook
    def check(config: dict[str, Any], command_name: str, logger: Any) -> dict[str, Any]:
        parsed = parse_config(config)
        if command_name == experiment.default_command:
            remark_on_unknown_commit(experiment)
            check_paths(parsed)
            if preflight is not None:
                preflight(parsed)
            experiment.observers[:] = [RunRecord(make_folder(parsed.fold_dir / kind, key="path.log_dir"))]
        return {}

    return experiment


def check_paths(config: Config) -> None:
    """Check that what the configuration points to exists and is whole.

    PHANTOM need not: it is made where it is missing.
    """
    config.layout.check_folders()
    config.find_split()
    check_folder(Path(config.path.log_dir), key="path.log_dir", for_writing=True)
    if config.reload_model_path not in (None, BEST):
        path = Path(config.reload_model_path)
        if not (path.parent if path.name == BEST else path).exists():
            raise UserError(f"reload_model_path={path}: no such snapshot or run folder")
    weights = config.model.encoder_weights
    if weights in (None, *PUBLISHED):
        return
    if not Path(weights).is_file():
        raise UserError(
            f"model.encoder_weights={weights}: must be {', '.join(PUBLISHED)}, None or an existing file"
        )
    read_tensors(Path(weights), kind="file of weights", allow_legacy=True)


def _evaluate_defaults(
    fixed: Any = None,
    preset: Any = None,
    fallback: Any = None,
    *,
    complete: Callable[[dict[str, Any], Mapping[str, Any]], dict[str, Any]] = lambda defaults, _: defaults,
) -> Any:
    """Supply sacred with the defaults of dataset, recipe and protocol.

    What the user fixed wins over them.

    If a training resumes, its former settings are the defaults.
    """
    general = default_values(Config)
    selection = {name: (fixed or {}).get(name, general[name]) for name in ("dataset", "recipe", "protocol")}
    if "recipe" not in (fixed or {}) and selection["dataset"] in DATASETS:
        selection["recipe"] = DATASETS[selection["dataset"]].recipe
    are_texts = all(isinstance(value, str) for value in selection.values())
    defaults = dataset_defaults(**selection) if are_texts else general
    if (fixed or {}).get("resume"):
        defaults = _with_former_settings(defaults, fixed)
    return sacred.config.ConfigDict(complete(defaults, fixed or {}))(fixed, preset, fallback)


def _with_training_paths(defaults: dict[str, Any], fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Take over the training's data folders, if they exist and none is set."""
    try:
        config = parse_values(Config, merge_values(defaults, fixed))
        training_dir = config.fold_dir / "training"
        choice = choose_training(training_dir, config.reload_model_path, folds=config.folds)
        saved = read_training_config(choice.snapshot)
        name = path_group(config.dataset)
        folders = saved["path"][name]
        data_dir = folders["data_dir"]
        is_present = isinstance(data_dir, str) and Path(data_dir).is_dir()
    except (KeyError, TypeError, ValueError, OSError, UserError):
        return defaults  # without a training; invalid values are reported by the checks
    if saved.get("dataset") != config.dataset or not is_present or name in fixed.get("path", {}):
        return defaults
    usable = {key: path for key, path in folders.items() if isinstance(path, str) and Path(path).is_dir()}
    values = adopt_values(defaults, {"path": {name: usable}}, exclude=())
    if config.dataset in DATASETS and DATASETS[config.dataset].spec.is_synthetic:
        values = adopt_values(values, {"phantom": saved.get("phantom", {})}, exclude=())
    if values["path"] != defaults["path"]:
        remark(f"path.{name}.data_dir={data_dir}, as in the training; set it to evaluate other data")
    return values


def find_former_run(config: Config) -> Path | None:
    """Find the run that a training resumes; None if it starts anew.

    A job that `torchrun` restarted resumes by itself. Raises as `choose_former_run` does.
    """
    resume = config.resume or ("latest" if find_ranks().n_restarts else None)
    if resume is None:
        return None

    def complete(saved: Mapping[str, Any]) -> dict[str, Any]:
        defaults = dataset_defaults(config.dataset, config.recipe)
        return plain_values(parse_config(adopt_values(defaults, _with_present_names(saved), exclude=())))

    return choose_former_run(
        config.fold_dir / "training",
        resume,
        settings=plain_values(config),
        complete=complete,
        is_requested=config.resume is not None,
        allows_changes=config.resume_changed,
    )


def _with_former_settings(defaults: dict[str, Any], fixed: Mapping[str, Any]) -> dict[str, Any]:
    try:
        config = parse_config(merge_values(defaults, fixed))
        resumable = list_resumable(config.fold_dir / "training", config.resume)
        runs = [run_dir for run_dir, _ in resumable]
        return dict(
            former_settings(runs, defaults, fixed, with_present_names=_with_present_names, check=parse_config)
        )
    except (KeyError, UserError):
        return defaults  # reported by the checks of the whole configuration


def _with_present_names(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the keys of a former run's configuration; a remark lists them."""
    values, renamed = with_present_names(Config, saved)
    if renamed:
        remark(f"the resumed run was saved with former names of configuration keys ({'; '.join(renamed)})")
    return values
