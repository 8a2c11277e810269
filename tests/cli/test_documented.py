"""What is read from the source is what Python makes of it."""

from dataclasses import MISSING, fields

import pytest

from timm_repair import methods
from timm_repair.cli import documented
from timm_repair.data.options import DataOptions
from timm_repair.diagnosis.sampling import Looking
from timm_repair.hub.exporting import FORMATS
from timm_repair.images.corruptions.parameters import CORRUPTIONS
from timm_repair.models.partition import GRANULARITIES
from timm_repair.options import flat_names, groups_of
from timm_repair.pipeline.inspecting import localize
from timm_repair.pipeline.protocols import PROTOCOLS
from timm_repair.properties.property import ANSWERS
from timm_repair.properties.sampling import Sampling
from timm_repair.report.tasks import REPEATS
from timm_repair.runtime.journal import FOLDER

KINDS = {
    "data.options.DataOptions": DataOptions,
    "properties.sampling.Sampling": Sampling,
    "diagnosis.sampling.Looking": Looking,
} | {documented.row("methods.METHODS", name): kind for name, kind in methods.METHODS.items()}


def defaults(kind: type) -> dict[str, str | None]:
    """Each field with its default as text, those of groups too."""
    groups, found = groups_of(kind), {}
    for each in fields(kind):
        if each.name in groups:
            found |= defaults(groups[each.name])
        elif each.default_factory is MISSING:
            found[each.name] = None if each.default is MISSING else repr(each.default)
    return found


@pytest.mark.parametrize("path", KINDS)
def test_options_with_their_defaults(path):
    groups = documented.options(path)
    assert sorted(documented.names(path)) == sorted(flat_names(KINDS[path]))
    assert all(group.title for group in groups)
    assert not [option.name for group in groups for option in group.options if not option.meaning]
    known = defaults(KINDS[path])
    for option in (option for group in groups for option in group.options):
        if option.name in known and known[option.name] is not None:
            assert eval(option.default) == eval(known[option.name]), option


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("methods.METHODS", methods.METHODS),
        ("models.partition.GRANULARITIES", GRANULARITIES),
        ("hub.exporting.FORMATS", FORMATS),
        ("pipeline.protocols.PROTOCOLS", PROTOCOLS),
        ("properties.property.ANSWERS", ANSWERS),
        ("report.tasks.REPEATS", REPEATS),
        ("images.corruptions.parameters.CORRUPTIONS", CORRUPTIONS),
    ],
)
def test_names_in_tables(path, names):
    assert documented.keys(path) == list(names)


def test_constants_and_parameters():
    assert documented.value("runtime.journal.FOLDER") == FOLDER
    found = documented.parameters("pipeline.inspecting.localize")
    assert found == [*localize.__wrapped__.__code__.co_varnames[: len(found) - 1], "options"]
