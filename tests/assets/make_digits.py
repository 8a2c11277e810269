"""Trains the small ResNet on digits and writes digits.safetensors beside this file: `python
tests/assets/make_digits.py`.

Another machine's training gives other weights: the tests rest on the committed file, not on this
training.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import digits
import planted
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

EPOCHS = 20


def main() -> None:
    pairs, model = digits.pairs(), planted.network()
    inputs = planted.inputs(model, pairs["train"])
    labels = torch.tensor([label for _, label in pairs["train"]])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    torch.manual_seed(0)
    model.train()
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(labels)).split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[batch]), labels[batch]).backward()
            optimizer.step()
        schedule.step()
    state = {
        name: value.half() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    save_file(state, digits.WEIGHTS)
    for name in ("pool", "unseen"):
        clean, worn = (
            planted.margins(digits.trained(), seen) > 0
            for seen in (pairs[name], digits.worn(pairs[name]))
        )
        print(
            f"{name}: {clean.float().mean():.1%} right, {worn.float().mean():.1%} through the worn"
            " camera"
        )


if __name__ == "__main__":
    main()
