"""What follows from imagenet_size.json: the cost of a whole repair, by stage and by machine;
table.py puts it into docs/processes.md.

Times on CPUs are seconds per image as measured, times the counted images. Times on GPUs are counted
FLOPs over an assumed rate: no GPU was measured. Arithmetic and the decoding of retained images
divide among processes; reading the sources and decoding the failures do not, since every process
does that for itself.
"""

from dataclasses import dataclass

RATE = 50e12  # FLOP/s that a GPU sustains in bf16; an assumption
# threads that decode, per process; what the package starts where there are so many cores
DECODERS = 8
GPUS = {"1 GPU": 1, "8 GPUs": 8, "2 x 8 GPUs": 16}
BATCH = 128  # the default
# localization reads the failures in so many parts, of each so many at once on a process:
# gradients.py, runtime.py
FOLDS, LOCALIZED = 4, 64
CACHED_PIXELS = 2 * 2**30  # of decoded images, of each source and process: images.CACHE_BYTES
IMAGE = 3 * 224 * 224
STAGES = {
    "prepare": "`prepare`",
    "evaluate": "measuring before and after",
    "localize": "localization",
    "search": "search",
    "finetune": "fine-tuning",
}

Table = tuple[list[str], list[list[str]]]


@dataclass(frozen=True)
class Run:
    """One repair: images by stage and kind of pass, and what each pass costs per image."""

    result: dict
    counts: dict

    @property
    def name(self) -> str:
        return f"`{self.counts['block']}`" + (
            f", `views={self.counts['views']}`" if self.counts["views"] else ""
        )

    def cost(self, stage: str, kind: str) -> dict:
        """The measured row: of this stage, or where it was not met there, of another, since a pass
        of one kind is the same in all.
        """
        rows = [
            row
            for row in self.result["steps"]
            if (row["block"], row["kind"]) == (self.counts["block"], kind)
        ]
        return next((row for row in rows if row["stage"] == stage), rows[0])

    def images(self, stage: str, of: str = "") -> int:
        """That come out of the model's last layer, or with of="step" those with a backward pass."""
        return sum(
            n
            for kind, n in self.counts["counts"][stage].items()
            if kind.startswith(of) and kind != "prefix"
        )

    def total(self, what: str, stages: object = STAGES) -> float:
        """ "flops" or "seconds" on the measured machine."""
        return sum(
            n * self.cost(stage, kind)[what]
            for stage in stages
            for kind, n in self.counts["counts"][stage].items()
        )

    def decoded(self, processes: int) -> float:
        """Images that each process decodes."""
        retained = sum(self.counts["decoded"]["retained"].values())
        return sum(self.counts["decoded"]["failures"].values()) + retained / processes

    def pixels(self, processes: int) -> float:
        """Bytes of decoded images that each process keeps."""
        failures, retained = (
            sum(self.counts["decoded"][name].values()) for name in ("failures", "retained")
        )
        return min(failures * IMAGE, CACHED_PIXELS) + min(
            retained / processes * IMAGE, CACHED_PIXELS
        )

    def trained(self) -> int:
        """Parameters that the search trains, the most of any stage but localization, which has no
        optimizer.
        """
        return max(
            self.cost(stage, kind)["trained"]
            for stage in ("search", "finetune")
            for kind in self.counts["counts"][stage]
            if kind.startswith("step")
        )

    def saved(self, processes: int) -> float:
        """Bytes of float32 maps that the widest step keeps for its backward pass, on each
        process.
        """
        steps = [
            (stage, kind)
            for stage in STAGES
            for kind in self.counts["counts"][stage]
            if kind.startswith("step")
        ]
        at_once = min(LOCALIZED, self.counts["trained_on"] / FOLDS / processes)
        return max(
            self.cost(*step)["saved_bytes"]
            * (at_once if step[0] == "localize" else BATCH / processes)
            for step in steps
        )


def runs_of(result: dict) -> list[Run]:
    """The defaults, and fixed views where the cache then keeps anything: elsewhere they change
    nothing.
    """
    return [
        Run(result, counts)
        for counts in result["counts"]
        if counts["views"] is None or counts["cache_bytes"]
    ]


def plain(result: dict) -> list[Run]:
    """Without fixed views: the defaults."""
    return [run for run in runs_of(result) if run.counts["views"] is None]


def stages_table(result: dict) -> Table:
    """Per stage the images, FLOPs, and the rate at which the CPU works them off."""
    runs, rows = plain(result), []
    for name, stages in {
        **{name: [stage] for stage, name in STAGES.items()},
        "**all**": list(STAGES),
    }.items():
        row = [name]
        for of in ("", "step"):
            counts = {sum(run.images(stage, of) for stage in stages) for run in runs}
            row.append("–".join(f"{count:,}" for count in sorted(counts)))
        for run in runs:
            flops, seconds = run.total("flops", stages), run.total("seconds", stages)
            row += [f"{flops / 1e12:.0f}", f"{seconds / 3600:.2f}", f"{flops / seconds / 1e9:.0f}"]
        rows.append(row)
    columns = [f"{run.name}: {what}" for run in runs for what in ("TFLOP", "CPU hours", "GFLOP/s")]
    return ["stage", "images forward", "and backward", *columns], rows


def per_example(result: dict, stage: str, what: str) -> float:
    """The slope between the two counts that were measured."""
    few, many = result["reading"]
    return (many[stage][what] - few[stage][what]) / (many["retained"] - few["retained"])


def seconds(value: float) -> str:
    return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s"


def machines_table(result: dict) -> Table:
    """Time and memory of the whole repair, by machine."""
    runs, retained = runs_of(result), result["retained"]
    cores, milliseconds = result["threads"], result["decode"]["milliseconds"]
    reading = retained * sum(per_example(result, stage, "seconds") for stage in ("read", "prepare"))
    host = max(result["reading"][-1][stage]["bytes"] for stage in ("read", "prepare"))
    rows = [
        [
            f"arithmetic, {run.name}",
            f"{run.total('seconds') / 60:.0f} min",
            *(seconds(run.total("flops") / n / RATE) for n in GPUS.values()),
        ]
        for run in runs
    ]
    rows.append(
        [
            "decoding JPEGs",
            seconds(runs[0].decoded(1) * milliseconds / 1000 / cores),
            *(seconds(runs[0].decoded(n) * milliseconds / 1000 / DECODERS) for n in GPUS.values()),
        ]
    )
    rows.append(["reading and splitting the retained examples", *[seconds(reading)] * 4])
    rows.append(["host memory of a process: retained examples", *[f"{host / 2**30:.1f} GiB"] * 4])
    rows.append(
        [
            "host memory of a process: decoded images, at most",
            *(f"{runs[0].pixels(n) / 2**30:.1f} GiB" for n in (1, *GPUS.values())),
        ]
    )
    for run in runs:
        if run.counts["cache_bytes"]:
            rows.append(
                [
                    f"prefix cache of a process, {run.name}",
                    "",
                    *[f"{run.counts['cache_bytes'] / 2**30:.1f} GiB"] * 3,
                ]
            )
    rows.append(["GPU memory: weights", "", *[f"{4 * result['weights'] / 2**20:.0f} MiB"] * 3])
    for run in plain(result):
        rows += on_gpus(run)
    return ["", f"{cores} CPU core{'s' * (cores > 1)}", *GPUS], rows


def on_gpus(run: Run) -> list[list[str]]:
    """What the training of a block takes of each GPU."""
    size, gpus = 4 * run.trained(), GPUS.values()
    moments = f"{2 * size / 2**20:.0f} MiB"
    maps = (f"{run.saved(n) / 2**30:.1f} GiB" for n in gpus)
    sent = (f"{2 * (n - 1) / n * size / 2**20:.0f} MiB" for n in gpus)
    return [
        [f"GPU memory: gradients and momentum, {run.name}", "", *[moments] * 3],
        [f"GPU memory: maps kept for the backward pass, {run.name}", "", *maps],
        [f"all-reduced in a step of the search, sent by each GPU, {run.name}", "", *sent],
    ]


TABLES = {
    "imagenet_stages": ("imagenet_size.json", stages_table),
    "imagenet_machines": ("imagenet_size.json", machines_table),
}
