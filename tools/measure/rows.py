"""What was measured against what was promised: values, statistics and the table."""

from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    part: str
    what: str
    measured: str
    target: str = ""
    met: bool | None = None
    """None: nothing was promised, or it was skipped."""
    samples: dict[str, list[float]] | None = None
    """Every single value, by what it is."""

    @property
    def verdict(self) -> str:
        if self.met is None:
            return "" if self.target == "" else "skipped"
        return "pass" if self.met else "MISS"


def p95(values: list[float]) -> float:
    """The smallest value that 95 of 100 do not exceed."""
    ordered = sorted(values)
    return ordered[-(-95 * len(ordered) // 100) - 1]


def seconds(values: list[float]) -> str:
    """Median and range, in a unit that suits."""
    unit, factor = ("s", 1.0) if median(values) >= 1 else ("ms", 1e3)
    digits = 2 if unit == "s" else 1 if median(values) * factor < 100 else 0
    low, mid, high = (f"{value * factor:.{digits}f}" for value in (min(values), median(values), max(values)))
    return f"{mid} {unit} ({low} to {high})"


def table(rows: list[Row]) -> str:
    """As Markdown, aligned, so that it serves on a terminal and in docs/performance.md."""
    lines = [("what", "measured", "target", ""), *((row.what, row.measured, row.target, row.verdict) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    drawn = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    drawn.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(drawn)
