"""Build the benchmarks' page: `python -m bench.results_page [--quick]`."""

import argparse
import json
from pathlib import Path

from bench import formatting
from bench.sections import Headline, Plot, Section, Table, output_dir
from util.errors import UserError
from util.io.files import write_text

# Other sections follow by name; those of the CPU precede those of other devices.
ORDER = (
    "training_step",
    "evaluation",
    "fold_evaluation",
    "growth",
    "memory",
    "supervoxels",
    "episodes",
    "startup",
)
ORDER += ("contention", "allocators", "fold")
HEADLINE_COLUMNS = ["what", "ours", "naive", "ratio", "memory ratio", "target"]

HEAD = """# Measurements

Each fast path is compared with a naive implementation of the same definition, in `bench/naive/`. Both run
alternately in the same call, with the same encoder, number format and number of threads. Times are medians,
with the shortest and the longest run in brackets; peak memory is that of a separate process (on a GPU:
PyTorch's peak on the device). 1 MB is 10^6 bytes.

To repeat all measurements:

```bash
bash bench/run.sh
```

`bash bench/run.sh supervoxels` runs one of them, `--device cuda` uses a GPU, and `--quick` gives rough
results without changing this page. `python -m bench.results_page` rebuilds the page from `bench/results/`.
"""


def main() -> None:
    """Write the page next to the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="use the quick runs in build/bench")
    folder = output_dir(quick=parser.parse_args().quick)
    sections = read_sections(folder / "results")
    write_text(folder / "RESULTS.md", make_page(sections))
    print(f"wrote {folder / 'RESULTS.md'}: {len(sections)} sections")


def read_sections(results_dir: Path) -> list[tuple[str, Section]]:
    """Read all `<device>/<name>.json`; raises `UserError` for an invalid file."""
    paths = sorted(results_dir.glob("*/*.json"), key=_sort_key)
    return [(path.parent.name, _read_section(path)) for path in paths]


def make_page(sections: list[tuple[str, Section]]) -> str:
    """Format the page in Markdown: how to run, the summary, then each section."""
    parts = [HEAD]
    rows = [
        [_add_device(row.name, device), row.fast, row.naive, row.ratio, row.memory_ratio, row.target]
        for device, section in sections
        for row in section.headline
    ]
    if rows:
        parts.append(f"## Summary\n\n{formatting.table(HEADLINE_COLUMNS, rows)}\n")
    parts += [_format_section(device, section) for device, section in sections]
    return "\n".join(parts)


def _read_section(path: Path) -> Section:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        for name, record in {"tables": Table, "plots": Plot, "headline": Headline}.items():
            fields[name] = [record(**values) for values in fields[name]]
        return Section(**fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path}: must be a benchmark result ({error}); delete it and repeat the benchmark"
        ) from error


def _format_section(device: str, section: Section) -> str:
    machine = ", ".join(
        f"{value} cores" if key == "cores" else value for key, value in section.machine.items()
    )
    versions = ", ".join(f"{name} {number}" for name, number in section.versions.items())
    parts = [
        f"## {_add_device(section.title, device)}",
        section.intro,
        f"`{section.command}`; {machine}; {versions}.",
        *(f"{table.caption}\n\n{formatting.table(table.columns, table.rows)}" for table in section.tables),
        *(f"{plot.caption}\n\n![{plot.file}](plots/{plot.file})" for plot in section.plots),
    ]
    if section.remarks:
        parts.append("\n".join(f"- {remark}" for remark in section.remarks))
    return "\n\n".join(parts) + "\n"


def _add_device(name: str, device: str) -> str:
    return name if device == "cpu" else f"{name} ({device})"


def _sort_key(path: Path) -> tuple[bool, str, int, str]:
    device, name = path.parent.name, path.stem
    position = ORDER.index(name) if name in ORDER else len(ORDER)
    return device != "cpu", device, position, name


if __name__ == "__main__":
    main()
