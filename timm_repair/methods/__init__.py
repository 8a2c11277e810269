"""Repair methods behind one verb: `repair(model, data, runtime) -> Outcome`.

- `"archrepair"` (archrepair.py, the paper's): searches a block's architecture and weights together.
- `"finetune"` (finetune.py): trains the weights of the network, of blocks, layers or neurons.
- `"bn_recalibration"` (bn_recalibration.py): renews batch-norm statistics alone; the cheapest.
- `"birdnn_retrain"`, `"birdnn_finetune"`, `"birdnn"` (birdnn_retrain.py, …): failures imitate their
  nearest well-behaved neighbours; neurons that behave differently are scaled; the one, then the
  other.
- `"arachne"` (arachne.py): a few single weights get new values, found by a swarm or by evolution.
- `"care"` (care.py): the neurons that cause the failures' outputs are scaled.
- `"neu_recover"` (neu_recover.py): weights that changed where the model unlearnt something, by the
  checkpoints of its training.
- `"sensei"` (sensei.py): every example in its worst transformation, which a genetic search finds.
- `"few_shot_mix"` (few_shot_mix.py), `"deep_repair"` (deep_repair.py): AugMix, in which failures
  lead one chain; in which failures give their style.
- `"linear_program"` (linear_program.py): the smallest change of the last layer that makes the given
  failures right.
- `"surgical"` (surgical.py): tries every block and the network, and trains what was best;
  `"auto_rgn"` (auto_rgn.py): a learning rate for each tensor.
- `"mode"` (mode.py): more of the examples that show how the worst class should be; `"apricot"`
  (apricot.py): towards models that have a failure right, away from those that have it wrong.
- `"wise_ft"` (wise_ft.py): the best weights between the original ones and those of another method.
- Controls: `"noop"` (noop.py) changes nothing, `"random_block"` (random_block.py) trains a block
  drawn at random, `"random_weights"` (random_weights.py) draws values for weights drawn at random.

A method is a frozen dataclass of options with the contract in method.py. Ours are found by name in
METHODS; yours is passed as an object. Copying the model, evaluating, reporting and saving are not
its business: `pipeline.repair` does them once for all.
"""

from dataclasses import fields, is_dataclass
from typing import Any

from timm_repair.methods.apricot import Apricot
from timm_repair.methods.arachne import Arachne
from timm_repair.methods.archrepair import ArchRepair
from timm_repair.methods.auto_rgn import AutoRgn
from timm_repair.methods.birdnn import Birdnn
from timm_repair.methods.birdnn_finetune import BirdnnFineTune
from timm_repair.methods.birdnn_retrain import BirdnnRetrain
from timm_repair.methods.bn_recalibration import BnRecalibration
from timm_repair.methods.care import Care
from timm_repair.methods.deep_repair import DeepRepair
from timm_repair.methods.few_shot_mix import FewShotMix
from timm_repair.methods.finetune import FineTune
from timm_repair.methods.linear_program import LinearProgram
from timm_repair.methods.method import Method
from timm_repair.methods.mode import Mode
from timm_repair.methods.neu_recover import NeuRecover
from timm_repair.methods.noop import Noop
from timm_repair.methods.random_block import RandomBlock
from timm_repair.methods.random_weights import RandomWeights
from timm_repair.methods.sensei import Sensei
from timm_repair.methods.surgical import Surgical
from timm_repair.methods.wise_ft import WiseFT
from timm_repair.options import by_name, flat, plain

METHODS = {
    "archrepair": ArchRepair,
    "finetune": FineTune,
    "bn_recalibration": BnRecalibration,
    "birdnn": Birdnn,
    "birdnn_retrain": BirdnnRetrain,
    "birdnn_finetune": BirdnnFineTune,
    "linear_program": LinearProgram,
    "arachne": Arachne,
    "care": Care,
    "neu_recover": NeuRecover,
    "sensei": Sensei,
    "few_shot_mix": FewShotMix,
    "deep_repair": DeepRepair,
    "noop": Noop,
    "random_block": RandomBlock,
    "random_weights": RandomWeights,
    "wise_ft": WiseFT,
    "surgical": Surgical,
    "auto_rgn": AutoRgn,
    "mode": Mode,
    "apricot": Apricot,
}
WiseFT.table = METHODS  # the one method that is about the others


def named(method: str | Method, **options: Any) -> Method:
    """The method of that name. `options` are its fields, or fields of the option groups it has
    (`Training`, `Target`), flat. An object is returned as it is.

    Raises:
        OptionError: unknown name or option, with a suggestion.

    Example:
        >>> named("archrepair", block="layer1", level="layer", steps=500)
    """
    return by_name("method", method, METHODS, contract=Method, **options)


def options_of(method: Method) -> dict[str, Any]:
    """The method's options as plain JSON, for the report: those of its groups flat in each."""
    if not is_dataclass(method):
        return {"method": plain(method)}
    values = {f.name: getattr(method, f.name) for f in fields(method)}
    return {n: flat(value) if is_dataclass(value) else plain(value) for n, value in values.items()}
