"""A contact sheet of the common corruptions: what they do to your images, before you look for
failures with them.

    python examples/corruptions.py DIR_OR_FILE_OR_HUB_ID --images 3 --output corruptions.png

One row per corruption; from left to right the original and the severities 1 to 5. Look at it before
you trust an accuracy: an image that you cannot recognize yourself is no failure worth repairing.
"""

import argparse
from pathlib import Path

import datasets
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

import timm_repair

FORMATS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json"}
MARGIN, GAP, LINE = 130, 6, 18


def some_images(path: str, count: int, side: int | None, split: str | None) -> np.ndarray:
    """`count` images from all over the dataset at `path`, (N, S, S, 3); those of another size are
    scaled and cropped to `side`, which None takes from the first.
    """
    if Path(path).is_file():
        dataset = datasets.load_dataset(
            FORMATS[Path(path).suffix.lower()], data_files=path, split="train"
        )
    else:
        dataset = datasets.load_dataset(path, split=split or "train")
    column = next(
        (name for name, kind in dataset.features.items() if isinstance(kind, datasets.Image)), None
    )
    if column is None:
        raise SystemExit(f"{path} has no column of images, only {', '.join(dataset.features)}")
    rows = np.linspace(0, len(dataset) - 1, count).astype(int).tolist()
    images = [image.convert("RGB") for image in dataset[rows][column]]
    side = side or min(images[0].size)
    return np.stack(
        [
            np.asarray(ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC))
            for image in images
        ]
    )


def contact_sheet(
    images: np.ndarray, *, seed: int, parameters: str | None, zoom: int
) -> Image.Image:
    """All corruptions of `images` (N, S, S, 3) as one picture, each pixel enlarged to `zoom` by
    `zoom`.
    """
    count, side = images.shape[:2]
    width, height = count * side * zoom + GAP, side * zoom + GAP
    sheet = Image.new(
        "RGB", (MARGIN + 6 * width, LINE + len(timm_repair.CORRUPTIONS) * height), "white"
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for severity in range(6):
        draw.text(
            (MARGIN + severity * width, 1),
            f"severity {severity}" if severity else "original",
            "black",
            font,
        )
    for row, (name, family) in enumerate(timm_repair.CORRUPTIONS.items()):
        top = LINE + row * height
        draw.text((4, top + height // 2 - 16), f"{name}\n({family})", "black", font)
        for severity in range(6):
            shown = (
                timm_repair.corrupt(images, name, severity, seed=seed, parameters=parameters)
                if severity
                else images
            )
            cell = Image.fromarray(np.concatenate(list(shown), axis=1))
            cell = cell.resize((cell.width * zoom, cell.height * zoom), Image.Resampling.NEAREST)
            sheet.paste(cell, (MARGIN + severity * width, top))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "data", help="a folder of images, a .parquet, .csv, .json or .jsonl file, or a Hub id"
    )
    parser.add_argument("--split", help="of a folder or a dataset of the Hub; default: train")
    parser.add_argument("--images", type=int, default=3, help="how many, from all over the dataset")
    parser.add_argument(
        "--side",
        type=int,
        help="pixels to scale them to first; default: the shorter side of the first",
    )
    parser.add_argument(
        "--parameters",
        choices=("cifar", "tiny", "imagenet"),
        help="default: by the size of the images",
    )
    parser.add_argument(
        "--zoom", type=int, default=1, help="how much to enlarge each pixel in the picture"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("corruptions.png"))
    arguments = parser.parse_args()
    images = some_images(arguments.data, arguments.images, arguments.side, arguments.split)
    sheet = contact_sheet(
        images, seed=arguments.seed, parameters=arguments.parameters, zoom=arguments.zoom
    )
    sheet.save(arguments.output)
    print(
        f"{arguments.output}: {len(timm_repair.CORRUPTIONS)} corruptions of {len(images)} images of"
        f" {images.shape[1]} pixels"
    )


if __name__ == "__main__":
    main()
