"""Put the benchmarks' results into one page: `python -m bench.report [--quick]`."""

import argparse
import json
from pathlib import Path

from bench.sections import Headline, Plot, Section, Table, output_dir
from util.errors import UserError
from util.io.files import write_text

# Others follow by name; the CPU's sections come before those of other devices.
ORDER = ("training_step", "evaluation", "parts", "growth", "memory", "supervoxels", "episodes", "startup")
HEADLINE_COLUMNS = ["what", "ours", "naive reading", "ratio", "memory ratio", "target"]

HEAD = """# Measurements

Each fast path against the naive reading of the same definition, which lies in `bench/naive/` or in the tests.
Both run in the same call, in turn, with the same encoder, number format and number of threads. Times are
medians with the shortest and the longest run in brackets; peak memory is that of a process of its own (on a
GPU: PyTorch's peak on the device). MB are 10^6 bytes.

Everything again:

```bash
bash bench/run.sh
```

One of them: `bash bench/run.sh supervoxels`; a short look that leaves this page alone: `--quick`; on a GPU:
`--device cuda`. The page is made from `bench/results/`; `python -m bench.report` makes it alone.
"""


def main() -> None:
    """Write the page beside the results it is made from."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="of the quick runs in build/bench")
    folder = output_dir(quick=parser.parse_args().quick)
    sections = read_sections(folder / "results")
    page = make_page(sections)
    write_text(folder / "RESULTS.md", page)
    print(f"wrote {folder / 'RESULTS.md'}: {len(sections)} sections")


def read_sections(results_dir: Path) -> list[tuple[str, Section]]:
    """Read all sections with their devices, in the page's order.

    Args:
        results_dir: holds `<device>/<name>.json`.

    Raises:
        UserError: a file is not a section; it is named.
    """
    paths = sorted(results_dir.glob("*/*.json"), key=_place)
    return [(path.parent.name, read_section(path)) for path in paths]


def read_section(path: Path) -> Section:
    """Read one section; raises `UserError` naming a file that is none."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        lists = {"tables": Table, "plots": Plot, "headline": Headline}
        made = {name: [kind(**one) for one in fields.pop(name)] for name, kind in lists.items()}
        return Section(**fields, **made)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path}: is not a benchmark's result ({error}); delete it and run it again"
        ) from error


def make_page(sections: list[tuple[str, Section]], *, plots_dir: str = "plots/") -> str:
    """Write the page in Markdown: how to run, the summary, then each section."""
    parts = [HEAD]
    summary = [(device, section.machine, row) for device, section in sections for row in section.headline]
    if summary:
        rows = [
            [_named(row.name, device), row.fast, row.naive, row.ratio, row.memory_ratio, row.target]
            for device, _, row in summary
        ]
        parts.append("## Summary\n\n" + format_table(Table("", HEADLINE_COLUMNS, rows)))
    parts += [_section_text(device, section, plots_dir) for device, section in sections]
    return "\n".join(parts)


def format_table(table: Table) -> str:
    """Write a table in Markdown, its caption before it.

    Raises:
        ValueError: a row has another number of cells than there are columns.
    """
    lines = [_row(table.columns), _row(["---"] * len(table.columns))]
    for row in table.rows:
        if len(row) != len(table.columns):
            raise ValueError(f"table '{table.caption}': {len(table.columns)} columns, but the row {row}")
        lines.append(_row(row))
    caption = f"{table.caption}\n\n" if table.caption else ""
    return caption + "\n".join(lines) + "\n"


def _section_text(device: str, section: Section, plots_dir: str) -> str:
    machine = ", ".join(
        f"{value} cores" if key == "cores" else value for key, value in section.machine.items()
    )
    versions = ", ".join(f"{name} {number}" for name, number in section.versions.items())
    parts = [
        f"## {_named(section.title, device)}",
        section.intro,
        f"`{section.command}`; {machine}; {versions}.",
        *(format_table(table).rstrip() for table in section.tables),
        *(f"{plot.caption}\n\n![{plot.file}]({plots_dir}{plot.file})" for plot in section.plots),
    ]
    if section.remarks:
        parts.append("\n".join(f"- {remark}" for remark in section.remarks))
    return "\n\n".join(parts) + "\n"


def _named(name: str, device: str) -> str:
    return name if device == "cpu" else f"{name} ({device})"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _place(path: Path) -> tuple[bool, str, int, str]:
    device, name = path.parent.name, path.stem
    rank = ORDER.index(name) if name in ORDER else len(ORDER)
    return device != "cpu", device, rank, name


if __name__ == "__main__":
    main()
