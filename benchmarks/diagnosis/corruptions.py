"""Corruptions planted in CIFAR-10: does a diagnosis name them, how strong does it say they are, and
how much does it explain?

    python -m benchmarks.diagnosis.corruptions ROOT  # resumable
    python -m benchmarks.diagnosis.corruptions ROOT --models resnet18_cifar10 --severities 5

ROOT holds models/NAME (folders of timm) and data/cifar10/{train,test}.parquet. Writes a row a
model, corruption and severity into benchmarks/results/diagnosis.json, and leaves out those that are
there. "clean" has no corruption: what the model has wrong of the test images as they are.
"""

import argparse
import json
import time
from pathlib import Path

import psutil
import timm
import torch
from torch import nn

import timm_repair
from timm_repair.diagnosis.parts import KINDS
from timm_repair.images.corruptions.parameters import PARAMETERS
from timm_repair.images.images import Images
from timm_repair.runtime.runtime import Runtime

RESULTS = Path(__file__).parents[1] / "results" / "diagnosis.json"
MODELS = ("resnet18_cifar10", "vgg16_bn_cifar10", "densenet121_cifar10", "efficientnet_b0_cifar10")
# what counts as the right name: the kinds of parts, of which the first must be one
NAMES = {
    "gaussian_noise": ("Gaussian noise",),
    "shot_noise": ("shot noise",),
    "impulse_noise": ("impulse noise",),
    "defocus_blur": ("defocus", "Gaussian blur", "low resolution"),
    "glass_blur": ("scattered pixels",),
    "motion_blur": ("motion blur",),
    "zoom_blur": ("zoom blur",),
    "snow": ("falling flakes",),
    "frost": ("frost",),
    "fog": ("veil",),
    "brightness": ("brightness", "exposure", "gamma"),
    "contrast": ("contrast", "levels"),
    "elastic_transform": ("elastic displacement", "affine jitter"),
    "pixelate": ("pixelation",),
    "jpeg_compression": ("JPEG",),
}
# where the first strength of a part has the unit of the parameter: the part, and that parameter
STRENGTHS = {
    "gaussian_noise": ("Gaussian noise", lambda p: p),
    "shot_noise": ("shot noise", lambda p: p),
    "impulse_noise": ("impulse noise", lambda p: p),
    "defocus_blur": ("defocus", lambda p: p[0]),
    "zoom_blur": ("zoom blur", lambda p: p[0] - 1),
    "brightness": ("brightness", lambda p: p),
    "contrast": ("contrast", lambda p: p),
    "pixelate": ("pixelation", lambda p: p),
    "jpeg_compression": ("JPEG", lambda p: p),
}


def main() -> None:
    """Run what has not run yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--severities", nargs="+", type=int, default=(5, 3))
    parser.add_argument("--corruptions", nargs="+", default=("clean", *NAMES))
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in given.models:
        model, retain, test = opened(given.root, name)
        for severity in given.severities:
            for corruption in given.corruptions:
                key = f"{name} {corruption} {severity}"
                if key in rows:
                    continue
                rows[key] = row(model, retain, test, corruption, severity)
                RESULTS.write_text(json.dumps(rows, indent=1))
                print(key, rows[key], flush=True)


def opened(root: Path, name: str) -> tuple[nn.Module, Images, Images]:
    """A model, and the training and test set as it takes them."""
    model = timm.create_model(f"local-dir:{root / 'models' / name}", pretrained=True).eval()
    data = root / "data" / "cifar10"
    retain = timm_repair.as_images(
        data / "train.parquet", model, name="retain", check_readable=False
    )
    return model, retain, timm_repair.as_images(data / "test.parquet", model, check_readable=False)


def row(model, retain, test, corruption: str, severity: int) -> dict:
    """One population diagnosed."""
    pool = test.subset(torch.arange(0, len(test), 4))
    source = pool if corruption == "clean" else timm_repair.corrupt(pool, corruption, severity)
    runtime = Runtime(progress=False)
    failures = timm_repair.collect_failures(model, source, max_failures=500, runtime=runtime)
    process, start = psutil.Process(), time.process_time()
    found = timm_repair.diagnose(model, failures, retain, progress=False)
    seconds = time.process_time() - start
    best = found.patterns[0] if found.patterns else None
    parts = [p.kind for p in best.parts] if best else []
    wanted = NAMES.get(corruption, ())
    family = {KINDS[kind].family for kind in wanted}
    right = found.nothing if corruption == "clean" else bool(parts) and parts[0] in wanted
    wrong = found.wrong_preprocessing
    return {
        "failures": len(failures),
        "error_rate": failures.error_rate,
        "parts": [[p.kind, [s.value for s in p.strengths], p.brings] for p in best.parts]
        if best
        else [],
        "populations": len(found.patterns),
        "named": right,
        "family": right or (bool(parts) and KINDS[parts[0]].family in family),
        "strength_error": strength_error(found, corruption, severity),
        "plain": found.told.right,
        "made": best.made.right if best else None,
        "explained": best.explained if best else None,
        "error_made": best.error_made if best else None,
        "path": list(best.path) if best else [],
        "preprocessing": wrong.name if wrong else None,
        "seconds": seconds,
        "rss_mib": process.memory_info().rss / 2**20,
    }


def strength_error(found, corruption: str, severity: int) -> float | None:
    """Found over true, less 1; None where the part was not found, or has another unit."""
    kind, true = STRENGTHS.get(corruption, (None, None))
    for pattern in found.patterns:
        for part in pattern.parts:
            if part.kind == kind and true is not None:
                value = true(PARAMETERS["cifar"][corruption][severity - 1])
                return part.strengths[0].value / value - 1
    return None


if __name__ == "__main__":
    main()
