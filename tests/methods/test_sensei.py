"""SENSEI: genes that mutate and cross as the paper says, the worst of them found for each example,
and a model that is right on images turned in ways it was never shown.
"""

import io
from dataclasses import replace

import planted
import pytest
import torch
from cases import BUDGET
from changed import rotated
from torch import nn
from torch.nn import functional as F

import timm_repair
from timm_repair import methods
from timm_repair.errors import OptionError
from timm_repair.training.batches import Batches
from timm_repair.training.job import Job
from timm_repair.training.options import Training
from timm_repair.training.transforming.genes import TRIES, Space, Varying
from timm_repair.training.transforming.warping import placing, warped
from timm_repair.training.worst import DIGITS, Searching, WorstVariants

PLAIN = Training(**BUDGET | {"batch_size": 6, "wrong_class_weight": 1.0})


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def pixels() -> torch.Tensor:
    return (256 * random(5, 3, 12, 16)).to(torch.uint8)


# ---- transformations


def test_what_moves_by_whole_pixels_is_moved_exactly(pixels):
    assert torch.equal(warped(pixels), pixels)
    moved = warped(pixels, shift=torch.tensor([[3, -2]] * 5))
    assert torch.equal(moved[:, :, :-2, 3:], pixels[:, :, 2:, :-3])
    assert torch.equal(moved[:, :, :-2, :3], pixels[:, :, 2:, :3].flip(3)), "the border reflects"
    square = pixels[:, :, :, :12]
    turned = warped(square, placing(rotation=torch.full((5,), 90.0)))
    assert torch.equal(turned, torch.rot90(square, 1, (2, 3))), "counter-clockwise"
    sheared = warped(pixels, placing(shear_x=torch.full((5,), 2.0)))
    # rows half a pixel above and below the middle move by one pixel to the left and to the right
    assert torch.equal(sheared[:, :, 5, :-1], pixels[:, :, 5, 1:])
    assert torch.equal(sheared[:, :, 6, 1:], pixels[:, :, 6, :-1])
    halves = pixels[:, :, ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3)
    smaller = warped(halves, placing(zoom=torch.full((5,), 0.5)))
    assert torch.equal(smaller[:, :, 3:9, 4:12], halves[:, :, ::2, ::2])


def test_filters(pixels):
    space = Space(Varying(filters=True))
    assert torch.equal(space.applied(pixels, torch.zeros(5, 7, dtype=torch.long)), pixels)
    genes = torch.tensor([[0, 0, 0, 0, 0, 2, -4]] * 5)  # 2 steps of 4 grey levels, 4 of 0.05
    expected = (0.8 * pixels.double() + 8).round().clamp(0, 255)
    assert (space.applied(pixels, genes).double() - expected).abs().max() <= 1
    assert Space(Varying(rotation=0.0, shear=0.0)).limits.tolist() == [0, 3, 3, 0]


# ---- genes


def bred(mutation: float, losses: float = 1.0, filters: bool = False):
    """The space, 40 queues of seven, and eight children of each."""
    space = Space(Varying(filters=filters))
    queues = (random(40, 7, len(space.names)) * (2 * space.limits + 1)).long() - space.limits
    there = torch.ones(40, 7, dtype=torch.bool)
    noise = random(40, 8 * TRIES, space.noise, seed=1)
    children, born = space.children(queues, there, torch.full((40,), losses), noise, mutation)
    assert children.shape == (40, 8, len(space.names))
    return space, queues, children, born


@pytest.mark.parametrize(("filters", "most"), [(False, 2), (True, 4)])
@pytest.mark.parametrize(("losses", "larger"), [(1.0, 1), (1e-4, 2)])
def test_a_mutation_moves_some_genes_a_step_or_to_the_other_side(filters, most, losses, larger):
    space, queues, children, born = bred(1.0, losses, filters)
    worst = queues[:, :1].expand_as(children)
    different = (children != worst).sum(2)
    assert different[born].max() == most and different[born].min() >= 1
    assert (children.abs() <= space.limits).all()
    for k, name in enumerate(space.names):
        step = larger if name in ("rotation", "shear") else 1
        limit = int(space.limits[k])
        old, new = worst[..., k][born], children[..., k][born]
        allowed = torch.stack(
            [old, -old, (old + step).clamp(max=limit), (old - step).clamp(min=-limit)]
        )
        assert (new == allowed).any(0).all()
        assert all((new == each)[new != old].any() for each in allowed[1:]), name


def test_a_crossing_takes_each_gene_from_the_worst_or_from_the_most_unlike_it():
    space, queues, children, born = bred(0.0)
    for queue, own, there in zip(queues, children, born, strict=True):
        distances = ((queue - queue[0]).abs() / space.limits).sum(1)
        pair = queue[[0, int(distances.argmax())]]
        for child in own[there]:
            assert ((child == pair[0]) | (child == pair[1])).all()


def test_no_child_is_known_already():
    for mutation in (0.0, 0.6, 1.0):
        _, queues, children, born = bred(mutation)
        for queue, own, there in zip(queues, children, born, strict=True):
            found = [tuple(child) for child in own[there].tolist()]
            assert len(set(found)) == len(found)
            assert not set(found) & {tuple(genes) for genes in queue.tolist()}
    assert born.all(), "mutations enough"


# ---- the search


def searched(model, data, runtime, visits: int, **options):
    """After so many batches of the same examples: the loss, the queues, and what was trained on."""
    varying = options.pop("varying", Varying())
    some = {"failing": data.failing.subset(range(3)), "retained": data.retained.subset(range(3))}
    few = replace(data, **some)
    job = Job(model.eval(), few, PLAIN, runtime)
    worst, forward = WorstVariants(job, varying, Searching(**options)), job.forward()
    batches, losses = Batches(few, PLAIN, runtime, "test"), []
    for _ in range(visits):
        losses.append(float(sum(worst(batches, forward)).detach()))
    return worst, losses, few


def by_hand(model, data, key: tuple[int, int], genes: torch.Tensor, varying: Varying) -> float:
    """The loss of one example in one transformation, without batches."""
    images = list(data.train.values())[key[0]]
    space = Space(varying)
    pixels = space.applied(images.pixels([key[1]]), genes[None].long())
    logits = model(data.preprocessing.normalize(pixels))
    return float(F.cross_entropy(logits, images.labels[[key[1]]]).detach())


def test_the_worst_of_all_is_trained_on(classifier, data, runtime):
    """A space that one can go through: eleven rotations."""
    varying = Varying(translation=0.0, shear=0.0)
    options = {"varying": varying, "beginning": 80, "population": 11}
    worst, losses, few = searched(classifier, data, runtime, 2, **options)
    whole = [torch.tensor([angle, 0, 0, 0]) for angle in range(-5, 6)]
    expected = []
    for key, (genes, found) in worst.queues.items():
        each = [by_hand(classifier, few, key, g, varying) for g in whole]
        expected.append(max(each))
        assert found[0] == pytest.approx(max(each), abs=10**-DIGITS, rel=1e-5)
        assert sorted(genes[:, 0].tolist()) == list(range(-5, 6)), "each of them once"
        assert found.tolist() == pytest.approx(
            [by_hand(classifier, few, key, g, varying) for g in genes], rel=1e-4, abs=1e-5
        )
        assert (found.diff() <= 10**-DIGITS).all(), "the worst first"
    assert len(worst.queues) == 6
    assert losses[-1] == pytest.approx(sum(expected) / 6, rel=1e-4, abs=1e-5)


class Darker(nn.Module):
    """Takes an image for class 0 the less, the lighter it is."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(1.0))

    def forward(self, images):
        return F.pad(-self.slope * images.mean((1, 2, 3))[:, None], (0, 9))


def test_mutations_climb_to_the_worst(data, runtime):
    """Brightness alone, from nothing: a step a visit, eight steps to the border."""
    lightest = Varying(
        rotation=0.0, translation=0.0, shear=0.0, zoom=0.0, contrast=0.0, filters=True
    )
    zeros = {n: getattr(data, n).labels == 0 for n in ("failing", "retained")}
    few = replace(data, failing=data.failing.subset(zeros["failing"]).subset(range(3)),
                  retained=data.retained.subset(zeros["retained"]).subset(range(3)))  # fmt: skip
    options = {"varying": lightest, "beginning": 1, "mutation": 1.0}
    for visits in (1, 4, 9, 12):
        worst, _, _ = searched(Darker(), few, runtime, visits, **options)
        steps = {tuple(genes[0].tolist()) for genes, _ in worst.queues.values()}
        assert steps == {(0, 0, 0, 0, 0, min(visits - 1, 8), 0)}


def test_so_many_are_kept(classifier, data, runtime):
    worst, _, _ = searched(classifier, data, runtime, 3, population=5)
    assert {len(losses) for _, losses in worst.queues.values()} == {5}


def asked(model, data, runtime, visits: int, **options) -> list[int]:
    """How many images each pass of the model had."""
    counts, hook = (
        [],
        model.register_forward_pre_hook(lambda _, given: counts.append(len(given[0]))),
    )
    searched(model, data, runtime, visits, **options)
    hook.remove()
    return counts


def test_ten_at_first_then_the_queue_and_its_children(classifier, data, runtime):
    assert asked(classifier, data, runtime, 2) == [6 * 10, 6, 6 * (7 + 8), 6]


def test_nothing_is_bred_where_the_model_is_sure(classifier, data, runtime):
    assert asked(classifier, data, runtime, 3, skip_below=1e6) == [60, 6, 6, 6, 6, 6]


def test_beyond_the_limit_of_a_pair_it_is_the_second_worst(classifier, data, runtime):
    options = {"pair_limit": 1, "children": 1}
    limited, losses, _ = searched(classifier, data, runtime, 1, **options)
    assert not limited.used, "an epoch of six examples is over"
    limited.used.update({(label, answer): 2 for label in range(10) for answer in range(10)})
    batches = Batches(data, PLAIN, runtime, "test")
    forward = Job(classifier.eval(), data, PLAIN, runtime).forward()
    limited.queues.clear()
    second = float(sum(limited(batches, forward)).detach())
    expected = sum(float(found[1]) for _, found in limited.queues.values()) / len(limited.queues)
    assert second == pytest.approx(expected, rel=1e-4)


def test_what_is_kept_goes_on_to_the_same_bits(classifier, data, runtime):
    worst, _, few = searched(classifier, data, runtime, 2)
    stream = io.BytesIO()
    torch.save(worst.state_dict(), stream)
    stream.seek(0)
    job = Job(classifier, few, PLAIN, runtime)
    again = WorstVariants(job, Varying(), Searching())
    again.load_state_dict(torch.load(stream))
    for each in (worst, again):
        list(each(Batches(few, PLAIN, runtime, "more"), job.forward()))
    assert worst.queues.keys() == again.queues.keys() and again.used == worst.used
    for key, (genes, losses) in worst.queues.items():
        assert torch.equal(genes, again.queues[key][0])
        assert torch.equal(losses, again.queues[key][1])


# ---- planted


def test_pictures_are_right_in_turns_that_were_never_shown():
    """Failures are turned to the left alone; those turned to the right are mended with them."""
    sure, angles = planted.classifier(), (18.0, 24.0, 30.0)
    trains = {"steps": 100, "batch_size": 64, "evaluations": 2, "learning_rate": 0.003}
    unlimited = {"max_clean_loss": None, "max_class_loss": None}  # of few pictures one is too much
    failures, _ = planted.wrong_by(sure, rotated(planted.pictures(300, 1), *angles))
    assert len(failures) > 100
    repaired = timm_repair.repair(
        sure,
        failures,
        retain=planted.pictures(600, 2),
        method="sensei",
        diagnose=False,
        progress=False,
        **BUDGET | trains | unlimited,
    )
    for sign in (1, -1):
        turned = rotated(planted.pictures(200, 3), *(sign * angle for angle in angles))
        wrong, _ = planted.wrong_by(sure, turned)
        assert len(wrong) > 100
        assert (planted.margins(repaired.model, wrong) > 0).float().mean() > 0.6
    assert (planted.margins(repaired.model, planted.pictures(100, 4)) > 0).float().mean() > 0.85


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zoom": 1.0}, "be below 1"),
        ({"rotation": -1.0}, "must not be negative"),
        ({"population": 0}, "at least 1"),
        ({"mutation": 1.5}, "share from 0 to 1"),
        ({"blocks": 2}, "blocks= is not used by sensei"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(OptionError, match=message):
        methods.named("sensei", **options)
