"""Datasets of the Hub, streamed and not: what it refuses, said in words and without the token."""

import logging
import subprocess
import sys
import traceback

import datasets
import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub import errors as hub_errors
from images.sources_of_images import table
from loopback.server import HubServer, hub_environment

from timm_repair.errors import DataError
from timm_repair.images.sources import as_images

TOKEN = "hf_SecretSecretSecret"
NotFound = datasets.exceptions.DatasetNotFoundError


pytestmark = pytest.mark.usefixtures("own_cache")


def errors_of(module):
    return [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ]


def test_every_error_of_the_hub_becomes_a_data_error_without_the_token(model, monkeypatch, caplog):
    kinds = errors_of(hub_errors) + errors_of(datasets.exceptions) + [ConnectionError, RuntimeError]
    assert len(kinds) > 60
    caplog.set_level(logging.DEBUG)
    said = {
        "__init__": lambda self: None,
        "__str__": lambda self: f"illegal header value 'Bearer {TOKEN}'",
    }
    for kind in kinds:
        for nested in (False, True):  # the token in the error itself, or in the one that caused it

            def fail(*_, kind=kind, nested=nested, **options):
                assert {
                    "token": TOKEN,
                    "revision": "v1",
                    "split": "train",
                    "streaming": True,
                }.items() <= options.items()
                error = type(kind.__name__, (kind,), said)()
                if nested:
                    raise ValueError("wrong") from error
                raise error

            monkeypatch.setattr(datasets, "load_dataset", fail)
            with pytest.raises(
                DataError, match=r"failures: ns/name cannot be loaded.*[.] [A-Z]\w+"
            ) as refused:
                as_images(
                    "ns/name",
                    model,
                    name="failures",
                    token=TOKEN,
                    revision="v1",
                    split="train",
                    streaming=True,
                )
            shown = "".join(traceback.format_exception(refused.value))
            assert TOKEN not in shown + caplog.text and refused.value.__cause__ is None
    monkeypatch.setenv("HF_TOKEN", TOKEN)  # that of the login is not shown either
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: fail_with(ValueError(TOKEN)))
    with pytest.raises(DataError, match=r"\*\*\*") as refused:
        as_images("ns/name", model)
    assert TOKEN not in "".join(traceback.format_exception(refused.value))


def fail_with(error):
    raise error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            NotFound("Dataset 'a/b' is a gated dataset on the Hub."),
            "Accept its conditions.*hf auth login.*token=",
        ),
        (
            NotFound("Dataset 'a/b' doesn't exist on the Hub or cannot be accessed."),
            "private, log in with `hf auth login`.*token=",
        ),
        (
            hub_errors.RevisionNotFoundError.__new__(hub_errors.RevisionNotFoundError),
            "Check revision=",
        ),
        (
            ValueError("Bad split: absent. Available splits: ['train']"),
            r"Available splits.*Check split=",
        ),
        (
            ConnectionError("Couldn't reach 'a/b' on the Hub (OfflineModeIsEnabled)"),
            "HF_HUB_OFFLINE",
        ),
        (ValueError("Config name is missing."), "datasets.load_dataset"),
        (
            RuntimeError("Dataset scripts are no longer supported, but found b.py"),
            "refs/convert/parquet",
        ),
        (OSError("disk"), "split= and your access"),
    ],
)
def test_errors_of_the_hub_say_what_to_do(error, message, model, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: fail_with(error))
    with pytest.raises(DataError, match=message) as refused:
        as_images("a/b", model)
    assert refused.value.__cause__ is error


READ = """
import logging, sys, traceback
logging.basicConfig(level=logging.INFO)  # of timm_repair all that is logged, so that the token would be seen
from images.sources_of_images import NAMES, Plain, red
from timm_repair.errors import DataError
from timm_repair.images.sources import as_images

token, other = sys.argv[1:]
for streaming in (True, False):  # in this order: what is in the cache of datasets, it gives to everybody
    def read(**options):
        return as_images("me/private", Plain(NAMES), streaming=streaming, **{"token": token, "split": "test"} | options)

    for wrong, fix in (
        ({"token": False}, "hf auth login"), ({"token": other}, "hf auth login"), ({"token": "hf_wrong"}, "hf auth login"),
        ({"revision": "v9"}, "Check revision="), ({"split": "absent"}, "Check split="), ({"split": None}, "split="),
    ):
        try:
            read(**wrong)
            raise SystemExit(f"{wrong} was taken")
        except DataError as error:
            shown = "".join(traceback.format_exception(error))
            assert fix in str(error) and not any(each in shown for each in (token, other, "hf_wrong")), shown
    images = read(revision="v1")
    assert (red(images), images.labels.tolist(), images.origin["source"]) == ([0, 1], [2, 1], "me/private@v1"), images.origin
    assert red(read()) == [0, 1, 2] and token not in repr((images, images.describe(), vars(images.pool.reader)))
"""


def test_a_private_dataset_of_the_hub_streamed_and_not(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with HubServer(regular_only=True) as hub:
        hub.add_user("me", TOKEN)
        api = HfApi(endpoint=hub.url, token=TOKEN)
        api.create_repo("me/private", repo_type="dataset", private=True)

        def push(split, labels):
            table(labels).to_parquet(tmp_path / "part.parquet")
            data = (tmp_path / "part.parquet").read_bytes()
            api.upload_file(
                path_or_fileobj=data,
                path_in_repo=f"data/{split}-0.parquet",
                repo_id="me/private",
                repo_type="dataset",
            )

        push("train", [0])
        push("test", [2, 1])
        api.create_tag("me/private", tag="v1", repo_type="dataset")
        push("test", [2, 1, 0])
        environment = hub_environment(hub.url, tmp_path / "home") | {
            "PYTHONPATH": ":".join(filter(None, sys.path))
        }
        script = [sys.executable, "-c", READ, TOKEN, "hf_other"]
        done = subprocess.run(
            script, env=environment, capture_output=True, text=True, cwd=tmp_path, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stderr + done.stdout and hub.errors == []
