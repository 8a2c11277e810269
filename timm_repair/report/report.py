"""Report: what a repair changed, measured on examples that it neither trained nor chose on.

Everything one repair has to say: print it, look at it as a page, or `to_dict()` it. Nothing here
reads or writes a file.
"""

from dataclasses import dataclass
from itertools import chain

from timm_repair.report import suspects, tables
from timm_repair.report.facts import Facts
from timm_repair.report.gallery import Gallery
from timm_repair.report.page import page
from timm_repair.report.properties import LEGEND, property_rows
from timm_repair.report.wording import clean, table, wrap


@dataclass(frozen=True, kw_only=True, repr=False)
class Report(Facts):
    """The facts of one repair, told. Its fields are those of `Facts`."""

    def __repr__(self) -> str:
        """Two lines; `print` it for the whole."""
        return (
            f"Report of {clean(self.method)} on {clean(self.model)}, seed {self.seed}."
            f" {self.verdict.sentences[0]}"
        )

    def to_html(self, gallery: Gallery | None = None, *, charts: bool | None = None) -> str:
        """One page that needs no network: save it as a file, open it in a browser.

        Args:
            gallery: pictures of examples; None shows none, as a report holds none. That of a repair
                is `repaired.gallery`.
            charts: whether figures are drawn; None draws them where matplotlib is installed.
        """
        return page.html(self, gallery, charts=charts)

    def _repr_html_(self) -> str:
        return page.framed(self.to_html())

    def __str__(self) -> str:
        """Plain text, at most 80 columns."""
        head = f"Repair of {clean(self.model, 200)} with {clean(self.method)} (seed {self.seed})"
        sections = [
            [line for sentence in self.verdict.sentences for line in wrap(sentence)],
            wrap(head),
            suspects.text(self.localization, self.repaired_blocks),
            *tables.architectures(self.genotypes),
            tables.scores_table(self.scores, self.seed),
        ]
        if read := tables.read_lines(self.provenance.get("read", {})):
            sections.append(["What was read", *read])
        if self.diagnosis is not None:
            sections.append(["What the failures have in common", *self._diagnosed()])
        if self.properties:
            sections.append(["Properties", *table(property_rows(self.properties)), *wrap(LEGEND)])
        if self.cost:
            sections.append(["Cost of the model", *table(tables.cost_rows(self.cost))])
        if self.stages:
            sections.append(["Cost of the repair", *table(tables.stage_rows(self.stages))])
        if self.notes:
            notes = (wrap(clean(note, 1000), "  * ", "    ") for note in self.notes)
            sections.append(["Notes", *chain.from_iterable(notes)])
        return "\n\n".join("\n".join(lines) for lines in sections)

    def _diagnosed(self) -> list[str]:
        assert self.diagnosis is not None
        lines = str(self.diagnosis["text"]).splitlines()
        return [f"  {clean(line, 200)}".rstrip() for line in lines]

    def to_markdown(self) -> str:
        """The before/after table as GitHub markdown, both accuracies with their intervals."""
        return tables.scores_markdown(self.scores, self.seed)
