"""Classify how a program ended that read a damaged file."""

from dataclasses import dataclass

from tests.fuzzing.tries import Ending

REFUSAL, CORRECT, OTHER = "clean refusal", "correct result", "other"


@dataclass(frozen=True)
class Verdict:
    """The outcome of one try.

    Attributes:
        kind, damage: what was damaged, and how.
        outcome: a clean refusal, a correct result, or another.
        message: the line of a refusal; what is wrong with another.
    """

    kind: str
    damage: str
    outcome: str
    message: str


def classify(
    ending: Ending, *, names: set[str], right: set[str], faults: list[str], several_lines: bool
) -> tuple[str, str]:
    """Classify an ending.

    Args:
        ending: of the process.
        names: of files, of which a refusal must name one.
        right: findings that are correct.
        faults: what else is wrong, such as files that were left behind.
        several_lines: whether a refusal may have a line for each problem.

    Returns:
        The outcome, and the line of the refusal or what is wrong.
    """
    lines = [line for line in ending.errors.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    wrong = list(faults)
    if ending.timed_out:
        wrong.append("ran for too long")
    if "Traceback" in ending.errors or ending.code not in (0, 2):
        last = (ending.errors.strip().splitlines() or ["no word"])[-1]
        wrong.append(f"exit code {ending.code}: {last[:300]}")
    elif ending.code == 0 and ending.result not in right:
        wrong.append("another result, in silence")
    elif ending.code == 2 and not (len(lines) == 1 or (lines and several_lines)):
        wrong.append(f"{len(lines)} lines of error: {lines[:3]}")
    elif ending.code == 2 and not any(name in lines[0] for name in names):
        wrong.append(f"names no file: {lines[0]}")
    if wrong:
        return OTHER, "; ".join(wrong)
    return (REFUSAL, lines[0]) if ending.code == 2 else (CORRECT, "")
