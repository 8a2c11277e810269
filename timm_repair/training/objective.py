"""Objective: what selection maximizes."""

from dataclasses import dataclass

from torch import Tensor

from timm_repair.data.predicting import Prediction
from timm_repair.data.repair_data import RepairData
from timm_repair.images.images import Images
from timm_repair.training.limits import Loss
from timm_repair.training.options import Choosing
from timm_repair.training.prefix.forward import Forward

# of the objective, an accuracy, for each point above a limit: four times what it is worth below it,
# so small gains hold the limits, and a model that is useless in production is mended all the same
PRICE = 0.02


@dataclass(frozen=True)
class Judged:
    """What the selection split says of a state.

    Args:
        value: as `objective`.
        right: population to what each of its examples (N,) adds to the estimated accuracy.
    """

    value: float
    right: dict[str, Tensor]

    def beats(self, other: "Judged") -> bool:
        """Whether it is better by more than the standard error of the difference, example by
        example.
        """
        differences = (right - other.right[name] for name, right in self.right.items())
        variance = sum(len(each) * each.var().item() for each in differences if len(each) > 1)
        return self.value - other.value > variance**0.5


def objective(forward: Forward, data: RepairData, choosing: Choosing) -> float:
    """What selection maximizes: estimated accuracy in production, from the selection split; ties go
    to the lower loss.

    Where passing examples of the failing population are known, that is the population's accuracy,
    failing and passing ones in their natural proportion, and the retained examples count as much
    as all of it. Where they are not, the retained ones stand for them: the model's error rate in
    production weighs the failing examples against them (`collect_failures` knows it; 1/2 where it
    is unknown), since fixing a failure of a model that is wrong 20 % of the time must not cost a
    quarter of an example it had right.

    Of a property it is what violates, in units of what violated before: nothing is gained where
    nothing changed, all where nothing violates any more, and more is lost than was ever to be
    gained where a repair of rare violations makes new ones.

    Each point lost of the retained examples beyond the limits of `choosing` takes off `PRICE`, as
    much as two points of the estimate: the limits are held where little is to be gained above them.
    """
    return judged(forward, data, choosing).value


def judged(forward: Forward, data: RepairData, choosing: Choosing) -> Judged:
    """`objective` with what its error is computed from."""
    predictions = {name: forward.predict(name) for name in data.selection}
    values = {name: _accuracy(predictions[name], images) for name, images in data.selection.items()}
    loss = _lost(predictions.get("retained"), data)
    excess = 0.0 if loss is None else loss.excess(choosing)
    nothing = dict.fromkeys(values, 0.0)
    none = _estimate(nothing, data)
    shares = {name: _estimate(nothing | {name: 1.0}, data) - none for name in values}
    right = {
        name: shares[name] / len(each.right) * each.right.double()
        for name, each in predictions.items()
    }
    return Judged(_estimate(values, data) - PRICE * excess, right)


def lost(forward: Forward, data: RepairData) -> Loss | None:
    """Of the retained examples of the selection split; None where there are none."""
    return _lost(forward.predict("retained") if "retained" in data.selection else None, data)


def _lost(retained: Prediction | None, data: RepairData) -> Loss | None:
    return None if retained is None else Loss.of(retained.right, data.selection["retained"])


def _estimate(values: dict[str, float], data: RepairData) -> float:
    population = values["failing"]
    if data.violation_rate is not None:
        others = (1 - data.violation_rate) / data.violation_rate
        return _mean(0.5, population - others * (1 - values["passing"]), values["retained"])
    if data.natural_rate is not None:
        population = _mean(data.natural_rate, population, values["passing"])
    if "retained" not in values:
        return population
    if data.natural_rate is not None:
        return _mean(0.5, population, values["retained"])
    return _mean(
        0.5 if data.error_rate is None else data.error_rate, population, values["retained"]
    )


def _mean(share: float, one: float, other: float) -> float:
    return share * one + (1 - share) * other


def _accuracy(prediction: Prediction, images: Images) -> float:
    loss = prediction.losses.double().mean().item()
    # the loss decides among equal accuracies only: it takes off less than half an example
    return prediction.right.double().mean().item() - 0.5 / len(images) * loss / (1 + loss)
