"""What the command line says before anything is done: help, version, and what to do about words
that it does not know. None of it waits for torch.
"""

import subprocess
import sys

import pytest

from timm_repair import cli
from timm_repair.cli import main
from timm_repair.cli.commands import COMMANDS

DEAR = ("torch", "timm", "numpy", "accelerate", "datasets")


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["repair", "--help"]])
def test_help_imports_nothing_that_takes_long(words):
    script = f"""
import sys
from timm_repair.cli import main
try:
    main({words})
except SystemExit as end:
    assert end.code == 0
print([name for name in {DEAR} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "[]\n", done.stderr
    assert "timm-repair" in done.stdout


def test_help_lists_every_command_with_what_it_does(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"  {name:10} {command.told}\n" in printed
    assert max(map(len, printed.splitlines())) <= 100


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_explains_every_argument(name, capsys):
    command = cli.parser(name)
    with pytest.raises(SystemExit):
        main([name, "--help"])
    assert capsys.readouterr().out == command.format_help()
    assert all(action.help for action in command._actions)
    for table in command.tables:
        assert all(option.meaning for group in table.groups() for option in group.options)


def test_the_options_of_a_method_are_listed_in_groups_with_defaults():
    own, other = (cli.parser("repair", words).format_help() for words in ([], ["--method=mode"]))
    for told in (own, other):
        assert "SGD with momentum, and its schedule:\n    learning_rate=0.02" in told
        assert "selection_share=0.2" in told and "follows from it (default: 0)" in told
    assert "strategy='pc_darts'" in own and "strategy=" not in other
    assert "rounds=5" in other and "rounds=" not in own


def test_the_version_is_that_of_the_package_and_of_what_it_stands_on(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("timm-repair 0.1.0 (Python 3.")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--retian=x"], "unknown option --retian; did you mean --retain?"),
        (["--lr", "0.1"], "did you mean --set learning_rate=VALUE?"),
        (["--epochs=3"], "did you mean --set steps=VALUE?"),
        (["--steps=3"], "did you mean --set steps=VALUE?"),
        (["--learning-rate=3"], "did you mean --set learning_rate=VALUE?"),
        (["--label-column=digit"], "did you mean --data label_column=VALUE?"),
        (["--output-dir=x"], "did you mean --output?"),
        (["--failure=x"], "did you mean --failures?"),  # a method has an option of that name too
        (["--device=cuda"], "accelerate chooses the device: CUDA_VISIBLE_DEVICES=1"),
        (["--qqqq"], "unknown option --qqqq\n"),
        (["--model=x"], "required: --output"),
        (["--model=x", "--output=y", "--method=finetun"], "invalid choice: 'finetun'"),
    ],
)
def test_what_is_typed_wrong_is_told_with_what_was_meant(words, said, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["repair", *words])
    printed = capsys.readouterr()
    assert caught.value.code == 2 and printed.out == "" and said in printed.err
    assert printed.err.startswith("timm-repair repair: ") and len(printed.err.splitlines()) == 2
    assert "usage: timm-repair repair --model MODEL --output OUTPUT [OPTION …]" in printed.err


def test_options_of_any_method_are_known_to_all(capsys):
    with pytest.raises(SystemExit):
        main(["repair", "--method=noop", "--rounds=3"])
    assert "did you mean --set rounds=VALUE?" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["magic", "finetune seed=3", "finetune 'block"])
def test_methods_that_are_none(method, capsys):
    with pytest.raises(SystemExit):
        main(["compare", "--model=x", "--methods", method])
    assert "argument --methods: " in capsys.readouterr().err


def test_a_command_that_is_none(capsys):
    assert main(["repiar"]) == 2
    assert "no command 'repiar'; did you mean 'repair'?" in capsys.readouterr().err
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("usage: timm-repair COMMAND")
