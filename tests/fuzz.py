"""Damage valid inputs of every kind, and see that each is refused in one line or does no harm.

`python -m tests.fuzz --tries 600 --seed 0` prints a table. `--kind snapshot` keeps to one kind, and
`--only N` repeats one try, with all that it wrote.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.fuzzing.judging import OTHER, Verdict
from tests.fuzzing.kinds import KINDS
from tests.fuzzing.session import Session

_COLUMNS = ("clean refusal", "correct result", OTHER)


def table(verdicts: list[Verdict]) -> str:
    """Lay the outcomes out, kind by kind."""
    lines = ["| kind | tries | clean refusals | correct results | other |", "|---|---:|---:|---:|---:|"]
    for kind in (*dict.fromkeys(verdict.kind for verdict in verdicts), "all"):
        outcomes = Counter(verdict.outcome for verdict in verdicts if kind in (verdict.kind, "all"))
        counts = " | ".join(str(outcomes[column]) for column in _COLUMNS)
        lines.append(f"| {kind} | {outcomes.total()} | {counts} |")
    return "\n".join(lines)


def main(words: list[str] | None = None) -> int:
    """Run the command; returns 1 where a try ended in neither way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=[kind.name for kind in KINDS])
    parser.add_argument("--only", type=int, help="number of the one try to make; its words are shown")
    options = parser.parse_args(words)
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="fuzz.") as folder:
        session = Session(Path(folder), options.seed)
        for number in session.numbers(options.tries, kind=options.kind, only=options.only):
            verdict = session.attempt(number)
            verdicts.append(verdict)
            if verdict.outcome == OTHER or options.only is not None:
                print(f"{verdict.kind}, {verdict.damage}: {verdict.outcome}, {verdict.message}")
                print(f"  again with --seed {options.seed} --only {number}", flush=True)
    print(table(verdicts))
    return int(any(verdict.outcome == OTHER for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
