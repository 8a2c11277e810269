"""The tables of docs/speed.md, from prefix.json, drift.json, scaling.json and compiled.json;
table.py writes them.
"""

from collections.abc import Mapping

LIMIT = 1.25  # target: at most so many times the bound
LATE = (
    "layer3",
    "layer4",
    "features.transition3",
    "features.denseblock4",
    "features.denseblock3.denselayer23-denselayer24",
    "features.denseblock4.denselayer15-denselayer16",
)  # blocks that it is set for, and
ALL = ("vgg16_bn", "efficientnet_b0")  # all blocks of these models

Table = tuple[list[str], list[list[str]]]


def steps_table(result: Mapping) -> Table:
    """A step of a block's repair over one of the whole network, beside the bound."""
    header = [
        "model",
        "block",
        "share of the FLOPs",
        "step from the images",
        "step from the cache",
        "its bound",
        "times the bound",
        "pair of search steps",
        "its bound",
        "cache / images: expected",
        "measured",
    ]
    rows = []
    models = list(dict.fromkeys(row["model"] for row in result["rows"]))
    for row in sorted(result["rows"], key=lambda row: models.index(row["model"])):
        cached, pair, check = row["cached"], row["search_pair"], row["cached_over_plain"]
        verdict = (
            ("met" if cached["over_bound"] <= LIMIT else "missed")
            if row["model"] in ALL or row["block"] in LATE
            else ""
        )
        rows.append(
            [
                row["model"].replace("_cifar_stem", ", 3x3 stem, 32 px"),
                f"`{row['block']}`",
                f"{100 * row['flops_share']:.0f} %",
                f"{row['plain']['ratio']:.2f}",
                f"{cached['ratio']:.2f} ({cached['min']:.2f} – {cached['max']:.2f})",
                f"{cached['bound']:.2f}",
                f"{cached['over_bound']:.2f} {verdict}",
                f"{pair['ratio']:.2f}",
                f"{pair['bound']:.2f}",
                f"{check['predicted']:.2f}",
                f"{check['measured']:.2f}",
            ]
        )
    return header, rows


def drift_table(result: Mapping) -> Table:
    """Largest and mean difference of a logit, at the worst block of each model."""
    rows = []
    for model in dict.fromkeys(row["model"] for row in result["rows"]):
        its = [row for row in result["rows"] if row["model"] == model]
        cells = []
        for precision in ("same", "fp16", "bf16"):
            worst = max(its, key=lambda row, precision=precision: row[precision]["max"])
            cells.append(
                f"{worst[precision]['max']:.1g} / {max(row[precision]['mean'] for row in its):.1g}"
            )
        rows.append([model, str(len(its)), f"{its[0]['largest_logit']:.0f}", *cells])
    return ["model", "blocks", "largest logit", "`same`", "`fp16`", "`bf16`"], rows


def scaling_table(result: Mapping) -> Table:
    """Efficiency of several processes."""

    def cell(found: Mapping) -> str:
        return f"{found['median']:.2f} ({found['min']:.2f} – {found['max']:.2f})"

    rows = [[row["work"], cell(row["efficiency"]), cell(row["machine"])] for row in result["rows"]]
    return [
        "work",
        f"{result['processes']} processes against one",
        "against as many independent ones, side by side",
    ], rows


def compiled_table(result: Mapping) -> Table:
    """Whether torch.compile pays."""
    rows = [
        [
            f"{row['model']}, `{row['block']}`",
            f"{row['ratio']:.2f}",
            f"{row['min']:.2f} – {row['max']:.2f}",
            f"{row['compiling_in_steps']:.0f}",
        ]
        for row in result["rows"]
    ]
    return [
        "model, block",
        "compiled step / step",
        "range",
        "compiling takes as long as so many steps",
    ], rows


TABLES = {
    "prefix": ("prefix.json", steps_table),
    "drift": ("drift.json", drift_table),
    "scaling": ("scaling.json", scaling_table),
    "compiled": ("compiled.json", compiled_table),
}
