"""Scorers: how suspicious each block is. Choose one by name, or pass your own to `localize`.

Scores of neurons, from one sweep (§3.2); a block is as suspicious as it has vulnerable neurons:
- `"spectrum_gradient"` (Eq. 6): the paper's.
- `"spectrum"` (Eq. 5), `"gradient"` (the factor that Eq. 6 adds): its two factors alone.
- `"enrichment"`: the paper's, relative to the number of neurons that chance puts in a block.
- `"shift"`: how far activations are from where they are for examples that the model gets right.

Scores of blocks:
- `"rgn"`: relative gradient norm; the default, reads the failures alone.
- `"gain"`: predicted gain of a gradient step; its unit is the loss, so it can be compared.
- `"probe"`: a short repair of each promising block, judged on examples it did not see; the dearest.
- `"random"`: the control.
"""

from timm_repair.localization.scorers.gain import gain
from timm_repair.localization.scorers.probing import probe
from timm_repair.localization.scorers.random import random
from timm_repair.localization.scorers.rgn import rgn
from timm_repair.localization.scorers.shift import shift
from timm_repair.localization.scorers.spectrum import gradient, spectrum, spectrum_gradient
from timm_repair.localization.scores import BlockScorer, NeuronScorer

SCORERS: dict[str, NeuronScorer | BlockScorer] = {
    "spectrum_gradient": NeuronScorer(spectrum_gradient),
    "spectrum": NeuronScorer(spectrum, gradients=False),
    "gradient": NeuronScorer(gradient, retained=False),
    "enrichment": NeuronScorer(spectrum_gradient, of_block="enrichment"),
    "shift": NeuronScorer(shift, gradients=False, of_block="mean"),
    "gain": gain,
    "rgn": rgn,
    "probe": probe,
    "random": random,
}
