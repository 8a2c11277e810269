"""Objective: what selection maximizes."""

from timm_repair.data.predicting import Prediction
from timm_repair.data.repair_data import RepairData
from timm_repair.images.images import Images
from timm_repair.training.prefix.forward import Forward


def objective(forward: Forward, data: RepairData) -> float:
    """What selection maximizes: estimated accuracy in production, from the selection split; ties go
    to the lower loss.

    The model's error rate in production weighs the failing examples against the retained ones
    (`collect_failures` knows it; 1/2 where it is unknown): fixing a failure of a model that is
    wrong 20 % of the time must not cost a quarter of an example it had right.
    """
    values = {
        name: _accuracy(forward.predict(name), images) for name, images in data.selection.items()
    }
    if "retained" not in values:
        return values["failing"]
    rate = 0.5 if data.error_rate is None else data.error_rate
    return rate * values["failing"] + (1 - rate) * values["retained"]


def _accuracy(prediction: Prediction, images: Images) -> float:
    loss = prediction.losses.double().mean().item()
    # the loss decides among equal accuracies only: it takes off less than half an example
    return prediction.right.double().mean().item() - 0.5 / len(images) * loss / (1 + loss)
