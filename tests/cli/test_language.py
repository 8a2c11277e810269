"""The console's language: the library's messages as options of a command."""

import pytest

from timm_repair import cli
from timm_repair.cli.language import language, spoken

WORDS = language(cli.parser("repair"))


@pytest.mark.parametrize(
    ("python", "console"),
    [
        ("pass retain= or holdout=", "pass --retain or --holdout"),
        ("give batch_size=8, at least", "give --set batch_size=8, at least"),
        ("or pass overwrite=True to replace it", "or pass --overwrite to replace it"),
        ("choose another output_dir", "choose another --output"),
        ("data=DataOptions(holdout_split='test')", "--data holdout_split='test'"),
        ("seed=-1: must be", "--seed -1: must be"),
        ("no block 'steps=3'", "no block 'steps=3'"),
        ("/data/split=3/x is none", "/data/split=3/x is none"),
        ("steps==3, unknown=4", "steps==3, unknown=4"),
    ],
)
def test_messages_of_the_library_in_the_language_of_the_console(python, console):
    assert spoken(python, WORDS) == console
