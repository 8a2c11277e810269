"""What it takes to read 1.28 million retained examples, and to decode one. Called by
size.py.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import timm
import torch
from accelerate import Accelerator
from datasets import ClassLabel, Features, Image
from PIL import Image as Picture
from torch import nn

from benchmarks.imagenet.meter import clock
from benchmarks.speed.memory import give_back
from timm_repair.data.predicting import predict
from timm_repair.data.preparing import prepare
from timm_repair.images.classes import Classes
from timm_repair.images.images import Images
from timm_repair.images.preprocessing import Preprocessing
from timm_repair.images.sources import as_images
from timm_repair.runtime.runtime import Runtime


def wrong(model: nn.Module, runtime: Runtime, count: int = 20) -> Images:
    """So few failures that they do not count."""
    arrays = np.random.default_rng(0).integers(256, size=(count, 32, 32, 3), dtype=np.uint8)
    images = as_images([(array, row % 2) for row, array in enumerate(arrays)], model)
    images.labels = (
        predict(model, images, images.preprocessing, runtime).predictions
        + 1
        + torch.arange(count) % 2
    ) % model.num_classes
    return images


def write_parquet(path: Path, count: int) -> None:
    names = Classes.of(timm.create_model("resnet50")).names
    picture = io.BytesIO()
    Picture.fromarray(np.random.default_rng(0).integers(256, size=(6, 6, 3), dtype=np.uint8)).save(
        picture, "PNG"
    )
    schema = Features({"image": Image(), "label": ClassLabel(names=list(names))}).arrow_schema
    images = pa.array(
        [{"bytes": picture.getvalue(), "path": None}] * count, schema.field("image").type
    )
    pq.write_table(
        pa.table([images, pa.array(np.arange(count) % len(names))], schema),
        path,
        row_group_size=10_000,
    )


def read(path: str, count: int) -> dict:
    """Seconds and bytes of reading and splitting `count` retained examples; called in a process of
    its own.
    """
    # one image at a time: the peak is to be that of the examples, not of the model's maps
    model = timm.create_model("resnet50").eval()
    runtime = Runtime(Accelerator(cpu=True), progress=False, eval_batch_size=1)
    failures = wrong(model, runtime)
    prepare(model, failures, runtime=runtime)  # what is loaded when first needed
    give_back()
    with runtime.stage("before"):
        pass
    times = [clock()]
    with runtime.stage("read"):
        retained = as_images(path, model, name="retain", check_readable=False)
    assert len(retained) == count
    times.append(clock())
    with runtime.stage("prepare"):
        data = prepare(model, failures, retain=retained, runtime=runtime)
    times.append(clock())
    give_back()
    with runtime.stage("after"):
        pass
    before, *stages = runtime.stages
    seconds = {"read": times[1] - times[0], "prepare": times[2] - times[1]}
    return {"retained": count, "trained_on": len(data.retained)} | {
        s.name: {
            "seconds": seconds.get(s.name),
            "wall_seconds": s.seconds,
            "bytes": s.peak_memory - before.peak_memory,
        }
        for s in stages
    }


def reading(count: int) -> dict:
    """`read` in a process of its own, with the bytes of the parquet file and of the Arrow file that
    `datasets` makes of it.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "retained.parquet"
        write_parquet(path, count)
        environment = os.environ | {
            "HF_DATASETS_CACHE": folder,
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        }
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.imagenet.reading", path, str(count)],
            cwd=Path(__file__).parents[2],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        copied = sum(file.stat().st_size for file in Path(folder).rglob("*.arrow"))
        return json.loads(done.stdout.splitlines()[-1]) | {
            "parquet_bytes": path.stat().st_size,
            "arrow_bytes": copied,
        }


def decode(repeats: int = 200) -> dict:
    model = timm.create_model("resnet50")
    noise = np.random.default_rng(0)
    smooth = Picture.fromarray(noise.integers(256, size=(38, 50, 3), dtype=np.uint8)).resize(
        (500, 375), Picture.Resampling.BICUBIC
    )
    picture, file = np.asarray(smooth, np.float32) + noise.normal(0, 8, (375, 500, 3)), io.BytesIO()
    Picture.fromarray(picture.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    preprocessing, times = Preprocessing.of(model), []
    for _ in range(repeats):
        start = clock()
        preprocessing.decode({"bytes": file.getvalue(), "path": None})
        times.append(clock() - start)
    return {"milliseconds": 1000 * median(times), "file_bytes": len(file.getvalue())}


if __name__ == "__main__":
    print(json.dumps(read(sys.argv[1], int(sys.argv[2]))))
