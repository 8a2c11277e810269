"""Words and numbers as the tables have them."""

from statistics import stdev

MISSING = "*Not measured yet.*"


def markdown(header: list[str], rows: list[list[str]], column: str = "---:") -> str:
    lines = [header, ["---", *[column] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: list[float]) -> str:
    return f" ± {stdev(values):.1f}" if len(values) > 1 else ""


def title(population: str) -> str:
    return population.replace("_", " ")


def span(values: list[int]) -> str:
    return "–".join(f"{n:,}" for n in sorted({min(values), max(values)}))


def verdict(met: bool) -> str:
    return "met" if met else "missed"
