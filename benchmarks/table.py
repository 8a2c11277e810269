"""Write the tables of README.md and docs/ from benchmarks/results/, where no measured number is
typed by hand, and that of docs/methods/README.md from the methods.

    python -m benchmarks.table            # rewrite them
    python -m benchmarks.table --check    # exit 1 if they are out of date

A table stands between `<!-- table:NAME:start -->` and `<!-- table:NAME:end -->`.
repair_cifar-*.json (one population and one seed each, any number of seeds) give "repair_cifar" and
"targets", repair_cifar_plain-*.json "plain", speed.json "speed", localization/*.json "regret", all
in docs/results.md. Those of the other pages are in PAGES, and default/*.json gives the README's
"summary".
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import methods, property_tables
from benchmarks.diagnosis import tables as diagnosis_tables
from benchmarks.imagenet import costs
from benchmarks.localization.tables import regret_table
from benchmarks.markdown import MISSING, markdown
from benchmarks.models import tables as model_tables
from benchmarks.repair import default_tables
from benchmarks.repair.cifar_results import read
from benchmarks.repair.cifar_tables import plain_table, repair_table, targets_table
from benchmarks.speed import prefix_tables
from benchmarks.speed.speed_table import speed_table

ROOT = Path(__file__).parent.parent
PAGES = {
    "blocks.md": model_tables.TABLES,
    "processes.md": costs.TABLES,
    "speed.md": prefix_tables.TABLES,
    "diagnosis.md": diagnosis_tables.TABLES,
    "properties.md": property_tables.TABLES,
    "training.md": default_tables.TABLES,
    "comparing.md": default_tables.EVERY_METHOD,
}


def read_and(make: Callable[[dict], tuple], path: Path) -> str:
    """The table that `make` makes of a result file, or of all those in a folder."""
    if not path.exists():
        return MISSING
    if path.is_dir():
        return markdown(*make([json.loads(each.read_text()) for each in sorted(path.glob("*"))]))
    return markdown(*make(json.loads(path.read_text())))


def fill(text: str, tables: dict[str, str]) -> str:
    """`text` with each table between its markers."""
    for name, table in tables.items():
        start, end = f"<!-- table:{name}:start -->", f"<!-- table:{name}:end -->"
        if text.count(start) != 1 or text.count(end) != 1:
            raise SystemExit(f"the text needs {start} and {end} exactly once")
        text = re.sub(
            f"{start}.*{end}", lambda _, new=f"{start}\n{table}\n{end}": new, text, flags=re.DOTALL
        )
    return text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 if a table is out of date"
    )
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args()
    results, files = read(arguments.results)
    tables = {
        "repair_cifar": repair_table(results, files),
        "targets": targets_table(results),
        "regret": regret_table(arguments.results / "localization"),
        "plain": plain_table(arguments.results, results),
        "speed": speed_table(arguments.results / "speed.json"),
    }
    pages = {
        arguments.docs / "results.md": tables,
        arguments.docs / "methods" / "README.md": {
            "methods": markdown(*methods.methods_table(), column="---")
        },
    }
    of_pages = {arguments.docs / page: of_page for page, of_page in PAGES.items()}
    for page, of_page in {arguments.readme: default_tables.SUMMARIES, **of_pages}.items():
        pages[page] = {
            name: read_and(make, arguments.results / file) for name, (file, make) in of_page.items()
        }
    after = {page: fill(page.read_text(), its) for page, its in pages.items()}
    if arguments.check:
        stale = any(page.read_text() != text for page, text in after.items())
        sys.exit("the tables are out of date: run python -m benchmarks.table" if stale else 0)
    for page, text in after.items():
        page.write_text(text)


if __name__ == "__main__":
    main()
