"""Objective: what selection maximizes."""

from torch import nn

from timm_repair.data.predicting import Prediction, predict
from timm_repair.data.repair_data import RepairData
from timm_repair.images.images import Images
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.prefix.cache import PrefixCache


def objective(
    model: nn.Module, data: RepairData, runtime: Runtime, cache: PrefixCache | None = None
) -> float:
    """What selection maximizes: estimated accuracy in production, from the selection split; ties go
    to the lower loss.

    The model's error rate in production weighs the failing examples against the retained ones
    (`collect_failures` knows it; 1/2 where it is unknown): fixing a failure of a model that is
    wrong 20 % of the time must not cost a quarter of an example it had right.
    """
    values = {}
    for name, images in data.selection.items():
        found = (
            predict(model, images, data.preprocessing, runtime)
            if cache is None
            else cache.predict(name)
        )
        values[name] = _accuracy(found, images)
    if "retained" not in values:
        return values["failing"]
    rate = 0.5 if data.error_rate is None else data.error_rate
    return rate * values["failing"] + (1 - rate) * values["retained"]


def _accuracy(prediction: Prediction, images: Images) -> float:
    loss = prediction.losses.double().mean().item()
    # the loss decides among equal accuracies only: it takes off less than half an example
    return (prediction.predictions == images.labels).double().mean().item() - 0.5 / len(
        images
    ) * loss / (1 + loss)
