"""Models as people bring them: repaired as they are, or refused in words before any work."""

from copy import deepcopy

import planted
import pytest
import timm
import torch
from cases import GENTLE
from models.unusual_models import UNUSUAL, WRAPPED, Softened
from states import unchanged
from torch import nn

from timm_repair import as_images, blocks, collect_failures, export, repair, revert
from timm_repair.errors import (
    AssumptionWarning,
    ConfigError,
    ModelError,
    NonFiniteError,
    OptionError,
    RepairError,
)
from timm_repair.hub import saving
from timm_repair.hub.loading import load
from timm_repair.images.classes import Classes
from timm_repair.images.preprocessing import Preprocessing
from timm_repair.models.copying import copied
from timm_repair.models.weights import check_finite, same_value
from timm_repair.models.wrapping import unwrapped
from timm_repair.pipeline.case import working_copy
from timm_repair.runtime.fence import default_device, fenced

SHORT = GENTLE | {"steps": 2, "batch_size": 8, "progress": False, "diagnose": False}
BUILT = {"method": "archrepair", "genotype": "random", "block": "layer3"}
TUNED = {"method": "finetune", "level": "block", "block": "layer3"}
ONLY_TUNED = ("four kinds of numbers", "tied weights", "a module in two places")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.* changed nothing"),
    pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated"),
]


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """They take long, and say nothing of a model's kind."""
    monkeypatch.setattr(saving, "find_spec", lambda name: None)


@pytest.fixture
def few(failures):
    return failures.subset(range(24))


@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapper_is_taken_off(name, classifier, pictures):
    wrapped = WRAPPED[name](classifier)
    assert unwrapped(wrapped) is classifier and load(wrapped)[1] is classifier
    images = as_images(pictures["pool"][:20], wrapped)
    assert images.preprocessing == Preprocessing.of(classifier)
    assert images.preprocessing.input_size == (1, 32, 32)
    assert [b.paths for b in blocks(wrapped)] == [b.paths for b in blocks(classifier)]


def test_a_wrapped_model_is_repaired_and_saved(classifier, few, tmp_path):
    wrapped = nn.DataParallel(WRAPPED["a framework's module"](classifier))
    with unchanged(wrapped):
        repaired = repair(wrapped, few, output_dir=tmp_path, **SHORT, **TUNED)
    assert type(repaired.model) is type(classifier)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Softened, r"computes something else than the model in it \(model\)"),
        (lambda model: nn.Sequential(model, deepcopy(model)), "holds 2 models"),
    ],
)
def test_what_is_no_wrapper_must_say_its_preprocessing(make, words, classifier, pictures):
    model = make(classifier)
    with pytest.raises(ModelError, match=words):
        collect_failures(model, pictures["pool"][:20])
    if isinstance(model, Softened):
        model.pretrained_cfg = dict(classifier.pretrained_cfg)
        assert len(collect_failures(model, pictures["pool"][:20])) == 4


def test_an_assumed_preprocessing_is_said_once(classifier, pictures):
    del classifier.pretrained_cfg, classifier.default_cfg
    with pytest.warns(AssumptionWarning, match="set model.pretrained_cfg") as said:
        images = as_images(pictures["pool"][:3], classifier)
        as_images(pictures["pool"][:3], classifier)
        Preprocessing.of(working_copy_of(classifier))
    assert len(said) == 1 and "says nothing" in images.preprocessing.source
    assert "224" in images.preprocessing.describe()["source"]


def working_copy_of(model: nn.Module) -> nn.Module:
    from making import quiet

    return working_copy(model, quiet())


@pytest.mark.parametrize(
    "config", [7, {"mean": "grey"}, {"std": (0.0,)}, {"input_size": 32}, {"mean": (float("nan"),)}]
)
def test_a_description_that_cannot_be_is_refused_by_name(config, classifier):
    classifier.pretrained_cfg = (
        classifier.pretrained_cfg | config if isinstance(config, dict) else config
    )
    with pytest.raises(ModelError, match="pretrained_cfg"):
        Preprocessing.of(classifier)


def test_a_head_replaced_by_hand_has_as_many_classes_as_it_answers():
    model = timm.create_model("resnet18", pretrained_cfg_overlay={"input_size": (3, 32, 32)})
    model.pretrained_cfg["tag"] = "a1_in1k"
    model.fc = nn.Linear(512, 2)
    assert model.num_classes == 1000 and Classes.of(model) == Classes(2)


def test_a_transformer_takes_the_images_that_it_was_made_for():
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=10)
    model.pretrained_cfg = model.pretrained_cfg | {"input_size": (3, 224, 224)}
    found = Preprocessing.of(model)
    assert found.input_size == (3, 64, 64) and "img_size" in found.source
    assert blocks(model, granularity="layer")


@pytest.mark.parametrize("name", UNUSUAL)
def test_an_unusual_model_is_repaired_and_reverted(name, classifier, few, tmp_path):
    plain = [block.name for block in blocks(classifier)]
    model = UNUSUAL[name](classifier)
    held = dict(model.named_parameters(remove_duplicate=False))
    assert [block.name for block in blocks(model)] == plain
    after = dict(model.named_parameters(remove_duplicate=False))
    assert all(after[key] is parameter for key, parameter in held.items()), "its own are back"
    original = {k: deepcopy(v) for k, v in model.state_dict().items()}
    method = TUNED if name in ONLY_TUNED else BUILT
    with torch.no_grad():
        repaired = repair(model, few, **SHORT, **method)
    for key, value in model.state_dict().items():
        assert same_value(value, original[key]), "the caller's is untouched"
    after = repaired.model.state_dict()
    for key, value in original.items():
        if isinstance(value, torch.Tensor) and key in after:
            assert after[key].dtype == value.dtype, key
    if name == "half":
        assert {value.dtype for value in after.values()} == {torch.float16, torch.int64}
        assert any("rounded to float16" in note for note in repaired.report.notes)
    reverted = revert(repaired.model)
    assert reverted.state_dict().keys() == original.keys()
    assert all(same_value(v, original[k]) for k, v in reverted.state_dict().items())
    exported = export(repaired.model, tmp_path / "model", format="torch") if name == "half" else 1
    assert exported


@pytest.mark.parametrize("name", ["half", "checkpointing"])
def test_an_unusual_model_is_saved(name, classifier, few, tmp_path):
    model = UNUSUAL[name](classifier)
    repaired = repair(model, few, output_dir=tmp_path, **SHORT, **BUILT)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(loaded(images), repaired.model.float()(images))


def test_tied_weights_are_saved_under_each_name(classifier, pictures, tmp_path):
    classifier.layer1[0].conv2.weight = classifier.layer2[0].conv2.weight
    wrong = planted.mislabelled(classifier, pictures["pool"][:40])
    repaired = repair(classifier, wrong, output_dir=tmp_path, **SHORT, **TUNED)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert torch.equal(loaded.layer1[0].conv2.weight, repaired.model.layer2[0].conv2.weight)


@pytest.mark.parametrize("name", ["a state that is no tensor", "a dict without an architecture"])
def test_what_cannot_be_saved_is_said_before_any_work(name, classifier, tmp_path):
    with pytest.raises(ConfigError, match="leave output_dir out"):
        # failures would raise too, if they were looked at
        repair(UNUSUAL[name](classifier), object(), output_dir=tmp_path)


def test_a_complex_parameter_is_refused_by_name(classifier, few):
    classifier.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    with pytest.raises(ModelError, match="'phase' is complex64"):
        repair(classifier, few, **SHORT)


def test_a_complex_buffer_keeps_its_imaginary_part(classifier, few):
    classifier.register_buffer("phase", torch.tensor([1 + 2j]))
    repaired = repair(classifier, few, **SHORT, **TUNED)
    assert torch.equal(repaired.model.phase, classifier.phase)


def test_nan_counts_where_it_reaches_the_logits(classifier):
    classifier.register_buffer("unused", torch.tensor([float("nan")]))
    check_finite(classifier)
    with torch.no_grad():
        classifier.layer3[0].conv1.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="layer3.0.conv1.weight"):
        check_finite(classifier)


def test_what_cannot_be_copied_is_refused_in_words(classifier):
    classifier.layer1.lock = (number for number in range(3))
    with pytest.raises(ModelError, match="cannot be copied"):
        copied(classifier)


@pytest.mark.parametrize("model", [7, None, {}, [1]])
def test_what_is_no_model_is_refused(model, pictures):
    for call in (blocks, load, lambda m: as_images(pictures["pool"][:2], m)):
        with pytest.raises(RepairError, match="(give|must be) a timm name"):
            call(model)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_torchscript_is_refused(classifier, few):
    with pytest.raises(ModelError, match="TorchScript"):
        repair(torch.jit.trace(classifier, torch.zeros(1, 1, 32, 32)), few)


def test_one_example_a_batch_needs_more_than_one_position(classifier, few):
    with pytest.raises(OptionError, match=r"batch norm 'layer4.0.bn1' sees one position"):
        repair(classifier, few, **SHORT | {"batch_size": 1}, method="finetune")


def _default_dtype():
    torch.set_default_dtype(torch.float64)


def _default_device():
    torch.set_default_device("meta")


@pytest.mark.parametrize(
    "mode",
    [
        torch.inference_mode,
        torch.no_grad,
        lambda: torch.autocast("cpu", torch.bfloat16),
        _default_dtype,
        _default_device,
    ],
    ids=["inference", "no gradients", "autocast", "default dtype", "default device"],
)
def test_the_callers_modes_change_nothing(mode, deployed, pictures, few):
    expected = repair(deployed, few, **SHORT, **TUNED)
    before = torch.get_default_dtype(), default_device()
    try:
        entered = mode()
        during = torch.get_default_dtype(), default_device()
        if entered is None:
            found = _all_of_it(deployed, pictures, few)
        else:
            with entered:
                found = _all_of_it(deployed, pictures, few)
        assert (torch.get_default_dtype(), default_device()) == during
    finally:
        torch.set_default_dtype(before[0])
        torch.set_default_device(None)
    ours, theirs = found.model.state_dict(), expected.model.state_dict()
    assert all(same_value(value, theirs[name]) for name, value in ours.items())
    assert found.report.scores == expected.report.scores


def _all_of_it(model, pictures, few):
    assert len(collect_failures(model, pictures["pool"][:20])) == 4
    assert blocks(model)
    repaired = repair(model, few, **SHORT, **TUNED)
    revert(repaired.model)
    return repaired


def test_a_model_made_in_inference_mode_is_repaired(few):
    with torch.inference_mode():
        model = planted.confused(planted.classifier())
    repaired = repair(model, few, **SHORT, **TUNED)
    assert not any(parameter.is_inference() for parameter in repaired.model.parameters())


def test_the_fence_gives_everything_back_after_an_error():
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        with pytest.raises(KeyError), fenced():
            assert torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
            raise KeyError
        assert torch.is_autocast_enabled("cpu") and not torch.is_grad_enabled()
