"""The console's language: how to call it, and the library's messages as options of a command."""

import pytest

from timm_repair import cli
from timm_repair.cli import main

REPAIR = cli._parser().parse_args(["repair", "--output=x", "--model=m", "--failures=f"]).command
WORDS = cli.language(REPAIR)


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
    assert cli.spoken(python, WORDS) == console


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["repairs"],
        ["repair"],
        ["compare", "--methods", "magic"],
        ["compare", "--methods", "finetune seed=3"],
    ],
)
def test_wrong_commands_show_the_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and "usage: timm-repair" in capsys.readouterr().err
