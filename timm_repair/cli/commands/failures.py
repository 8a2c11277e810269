"""Commands that find what a model gets wrong: collect, corrupt."""

import argparse
import json
import shlex
from contextlib import nullcontext
from typing import Any

from timm_repair.cli import documented
from timm_repair.cli.answers import Answer
from timm_repair.cli.arguments import (
    FORMS,
    describe_model,
    describe_new_folder,
    describe_reading,
)
from timm_repair.cli.parser import Parser
from timm_repair.options import make, parse

COLLECTED = "collected.json"


def describe_collect(command: Parser) -> None:
    """Find what a model gets wrong, and keep it with what passes."""
    describe_model(command)
    add = command.group("model and images").add_argument
    add("--images", required=True, metavar="PLACE", help=f"labelled images: {FORMS}")
    describe_reading(command)
    add = command.group("how").add_argument
    add("--max-failures", type=int, metavar="N", help="at most so many, drawn at random")
    add("--seed", type=int, default=0, help="of the draw")
    told = "folder for failing/ and passing/, each with one folder a class"
    describe_new_folder(command, told)


def collect(arguments: argparse.Namespace) -> Answer:
    """What was found, and how to go on."""
    from timm_repair.data.options import DataOptions
    from timm_repair.hub.folder import require_apart
    from timm_repair.images.classes import Classes
    from timm_repair.images.writing import replacing, write_folder
    from timm_repair.pipeline.case import load_model
    from timm_repair.pipeline.inspecting import collect_failures
    from timm_repair.runtime.runtime import Runtime

    output = arguments.output.expanduser()
    require_apart(output, {"--images": arguments.images})
    data = make(DataOptions, parse(arguments.data))
    runtime = Runtime(seed=arguments.seed, progress=False)
    main = runtime.accelerator.is_main_process  # it alone writes
    place = replacing(output, COLLECTED, overwrite=arguments.overwrite) if main else nullcontext()
    with place as folder:
        _, model = load_model(arguments.model)
        names = Classes.of(model).names
        failures = collect_failures(
            model,
            arguments.images,
            max_failures=arguments.max_failures,
            seed=arguments.seed,
            runtime=runtime,
            name="images",
            data=data,
        )
        if folder is None:
            return Answer(None)
        found = {"model": arguments.model, "images": arguments.images}
        found["error_rate"] = failures.error_rate
        parts = {"failing": failures, "passing": _natural(failures, arguments.max_failures)}
        for name, part in parts.items():
            if part is not None and len(part):
                (folder / name).mkdir()
                found[name] = write_folder(_examples(part, names), folder / name)
        (folder / COLLECTED).write_text(json.dumps(found, indent=1))
    places = {"--model": arguments.model, "--failures": output / "failing"}
    places |= {"--passing": output / "passing"} if "passing" in found else {}
    typed = " ".join(f"{option} {shlex.quote(str(place))}" for option, place in places.items())
    told = (
        f"{found['failing']:,} images that the model gets wrong"
        f" ({found['error_rate']:.1%} of those asked about) and {found.get('passing', 0):,} that it"
        f" gets right are in {output}. Repair them with\n"
        f"  timm-repair repair {typed} --retain … --output …"
    )
    return Answer(told, found)


def _natural(failures: Any, most: int | None) -> Any:
    """What passes, as many as there are to so many failures: a repair reads their proportion."""
    passing = failures.passing
    if passing is None or most is None:
        return passing
    count = round(len(failures) * (1 / failures.error_rate - 1))
    if count >= len(passing):
        return passing
    return passing.subset([i * len(passing) // count for i in range(count)])


def _examples(images: Any, names: Any) -> Any:
    """Of each the image as its source has it, and the name of its class."""
    for row, label in zip(images.rows.tolist(), images.labels.tolist(), strict=True):
        yield images.pool.reader.read([row])[0], label if names is None else names[label]


def describe_corrupt(command: Parser) -> None:
    """Make images as they would be in fog, noise or blur, to find failures before users do."""
    command.add_argument("images", metavar="PLACE", help=f"labelled images: {FORMS}")
    known = documented.keys("images.corruptions.parameters.CORRUPTIONS")
    command.add_argument(
        "corruption", metavar="CORRUPTION", choices=known, help=f"one of {', '.join(known)}"
    )
    add = command.group("how").add_argument
    add("--severity", type=int, default=5, choices=range(1, 6), help="from 1 to 5")
    add("--seed", type=int, default=0, help="of what is random")
    add("--split", help="of the images, where there are several")
    told = "folder for the images, with one folder a class"
    describe_new_folder(command, told)


def corrupt(arguments: argparse.Namespace) -> Answer:
    """Where they are."""
    from timm_repair.hub.folder import require_apart
    from timm_repair.images.corruptions import corrupting
    from timm_repair.images.writing import LISTED, replacing, write_folder

    output = arguments.output.expanduser()
    require_apart(output, {"IMAGES": arguments.images})
    with replacing(output, LISTED, overwrite=arguments.overwrite) as folder:
        found = corrupting.corrupt(
            arguments.images,
            arguments.corruption,
            arguments.severity,
            seed=arguments.seed,
            split=arguments.split,
        )
        named = (
            (image, found.classes[label] if found.classes and isinstance(label, int) else label)
            for image, label in (found[i] for i in range(len(found)))
        )
        count = write_folder(named, folder)
    how = f"{arguments.corruption} of severity {arguments.severity}"
    told = f"{count:,} images with {how} are in {output}"
    return Answer(told, {"images": count, "output": str(output)})
