"""The demo: the main job, end to end and offline. A small classifier of handwritten digits fails on
a worn camera; repair it.

scikit-learn's digits are real scans that come with the package. A small timm ResNet is trained on
them, then meets the same kind of digits through a worn camera (blurred, flat, noisy). Its failures
are collected, the responsible block is found, its architecture is searched, the repaired model is
measured on digits nobody has seen, saved, loaded back through timm, and shown to be equal.
"""

from pathlib import Path
from typing import Any, cast

import numpy as np
import timm
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F
from tqdm import trange

from timm_repair.errors import RepairError, require_packages
from timm_repair.images.images import Images
from timm_repair.images.sources import as_images
from timm_repair.pipeline.inspecting import collect_failures
from timm_repair.pipeline.repaired import Repaired
from timm_repair.pipeline.repairing import repair

Pair = tuple[Image.Image, int]

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SIDE = 32


def worn_camera(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Blur, loss of contrast and sensor noise, as a badly focused camera in bad light has them."""
    pixels = gaussian_filter(np.asarray(image, dtype=np.float64), 1.6)
    pixels = 90 + 0.45 * (pixels - pixels.mean()) + rng.normal(0, 14, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def digits(seed: int) -> tuple[list[Pair], list[Pair], list[Pair]]:
    """(image, label) pairs: 800 to train the classifier on, 550 that it meets in production, 447
    held out from everything.
    """
    require_packages("demo", "the demo, whose digits are scikit-learn's,", "sklearn")
    from sklearn.datasets import load_digits

    bunch = cast(Any, load_digits())  # by its own hints a pair
    images = [
        Image.fromarray((pixels * 15.9375).astype(np.uint8)).resize(
            (SIDE, SIDE), Image.Resampling.BICUBIC
        )
        for pixels in bunch.images
    ]
    pairs = list(zip(images, bunch.target.tolist(), strict=True))
    order = np.random.default_rng(seed).permutation(len(pairs))
    train, production, unseen = np.split(order, [800, 1350])
    return [pairs[i] for i in train], [pairs[i] for i in production], [pairs[i] for i in unseen]


def train_classifier(pairs: list, *, steps: int, seed: int) -> torch.nn.Module:
    """The model in production: a small timm ResNet, plainly trained, as good as any on clean
    digits.
    """
    torch.manual_seed(seed)
    model = timm.create_model(
        "test_resnet",
        in_chans=1,
        num_classes=10,
        pretrained_cfg_overlay={
            "input_size": (1, SIDE, SIDE),
            "mean": (0.3,),
            "std": (0.35,),
            "crop_pct": 1.0,
            "label_names": NAMES,
        },
    )
    images = as_images(pairs, model, name="digits")
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    model.train()
    for _ in trange(steps, desc="train the classifier", disable=None):
        batch = torch.randint(len(images), (64,))
        shift = torch.randint(-2, 3, (2,)).tolist()
        pixels = images.pixels(batch).roll(shift, dims=(2, 3))  # digits have an empty border
        loss = F.cross_entropy(
            model(images.preprocessing.normalize(pixels, "cpu")), images.labels[batch]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def demo(
    output: Path = Path("demo-output"),
    *,
    steps: int = 300,
    seed: int = 0,
    overwrite: bool = False,
) -> Repaired:
    """Train, break, repair, measure, save and load back; print what happens.

    Args:
        output: a directory for the repaired model, its card, report and figures.
        steps: of the repair; of training the classifier, twice as many.
        seed: of everything random.
        overwrite: replace another repair in `output`.

    Raises:
        RepairError: the repair did not do what the demo promises.
    """
    rng = np.random.default_rng(seed)
    print("1. A classifier of handwritten digits goes into production.")
    train, production, unseen = digits(seed)
    model = train_classifier(train, steps=2 * steps, seed=seed)

    print("\n2. The camera wears out; the failures are collected.")
    seen_through = [(worn_camera(image, rng), label) for image, label in production]
    failures = collect_failures(model, seen_through, seed=seed)
    print(
        f"   {len(failures)} of {len(seen_through)} digits are misread ({failures.error_rate:.0%})."
    )
    # what it still reads right through this camera must not be forgotten either; failures alone
    # cannot tell
    wrong = set(failures.ids)
    right = [pair for i, pair in enumerate(seen_through) if i not in wrong]

    print(
        "\n3. Repair: find the block, search its architecture and weights, fine-tune, measure on"
        " unseen digits."
    )
    holdout = {
        "worn camera": [(worn_camera(image, rng), label) for image, label in unseen],
        "clean": unseen,
    }
    options = {"level": "layer", "steps": steps, "hflip": 0.0, "shift": 0.06}
    repaired = repair(
        model,
        failures,
        retain=train + right,
        holdout=holdout,
        seed=seed,
        output_dir=output,
        overwrite=overwrite,
        progress=False,  # the log tells of it
        **options,
    )
    print(f"\n{repaired.report}\n")

    print("4. Load it back through timm, and compare.")
    _keep_the_promise(repaired, as_images(unseen, model), output)
    return repaired


def _keep_the_promise(repaired: Repaired, unseen: Images, output: Path) -> None:
    again = timm.create_model(f"local-dir:{output.resolve()}", pretrained=True).eval()
    x = unseen.preprocessing.normalize(unseen.pixels(range(len(unseen))), "cpu")
    with torch.no_grad():
        equal = torch.equal(again(x), repaired.model(x))
    worn, clean = (repaired.report.population(name) for name in ("worn camera", "clean"))
    share = worn.fixed / (worn.n - round(worn.accuracy_before * worn.n))
    print(f"   Logits on {len(unseen)} digits equal those before saving: {equal}.")
    print(
        f"   {worn.fixed} held-out failures fixed ({share:.0%}), {worn.broken} broken; "
        f"clean accuracy {clean.accuracy_before:.1%} -> {clean.accuracy_after:.1%}."
    )
    print(f"\nLook at {output}/report.html in a browser, and {output}/README.md (the model card).")
    # a point is four or five of the clean digits: less than eight more broken than fixed is what
    # chance does
    if not equal or share < 0.5 or (clean.change < -0.01 and clean.p_value < 0.01):
        raise RepairError(
            "the demo did not keep its promise: half of the failures fixed, no loss of clean"
            " accuracy beyond chance"
        )
