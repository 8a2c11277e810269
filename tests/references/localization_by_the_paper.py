"""Equations 5 and 6 and Algorithm 1 as they stand in the paper: one example, one neuron, one number
at a time. Slow on purpose.
"""

import torch
from torch.nn import functional as F


def observe(model, taps, images, labels):
    """For each example: was it misclassified, the spatial mean of each neuron's pre-activation, and
    its loss gradient.

    `taps` maps a layer to the module whose output is its pre-activation, all outputs (1, C, H, W).
    The model goes on with a copy of each, so that no in-place operation changes what is kept.
    """
    seen = []
    for image, label in zip(images, labels, strict=True):
        kept = {}

        def keep(layer, kept=kept):
            def hook(module, inputs, output):
                kept[layer] = output
                return output.clone()

            return hook

        handles = [
            model.get_submodule(path).register_forward_hook(keep(layer))
            for layer, path in taps.items()
        ]
        logits = model(image[None])
        for handle in handles:
            handle.remove()
        loss = F.cross_entropy(logits, label[None])
        gradients = torch.autograd.grad(loss, list(kept.values()))
        activations = {
            layer: [channel.mean().item() for channel in kept[layer][0]] for layer in taps
        }
        gradients = {
            layer: [channel.sum().item() for channel in g[0]]
            for layer, g in zip(kept, gradients, strict=True)
        }
        seen.append((logits.argmax().item() != label.item(), activations, gradients))
    return seen


def means(model, taps, images):
    """The spatial mean of each neuron's pre-activation, of many examples at once: layer -> (N,
    C).
    """
    kept = {}
    handles = [
        model.get_submodule(path).register_forward_hook(
            lambda _, __, output, layer=layer: kept.update({layer: output.mean((2, 3))})
        )
        for layer, path in taps.items()
    ]
    model(images)
    for handle in handles:
        handle.remove()
    return kept


def tarantula(seen):
    """Eq. 5: (layer, channel) -> s_j."""
    _, first, _ = seen[0]
    scores = {}
    for layer in first:
        for j in range(len(first[layer])):
            n_am = sum(1 for wrong, a, _ in seen if wrong and a[layer][j] > 0)
            n_nm = sum(1 for wrong, a, _ in seen if wrong and not a[layer][j] > 0)
            n_ac = sum(1 for wrong, a, _ in seen if not wrong and a[layer][j] > 0)
            n_nc = sum(1 for wrong, a, _ in seen if not wrong and not a[layer][j] > 0)
            wrong_share = n_am / (n_am + n_nm) if n_am + n_nm else 0.0
            right_share = n_ac / (n_ac + n_nc) if n_ac + n_nc else 0.0
            total = wrong_share + right_share
            scores[layer, j] = wrong_share / total if total else 0.0
    return scores


def mean_gradients(seen_failures):
    """(layer, channel) -> g_j over D_fail, its misclassified examples."""
    failed = [gradients for wrong, _, gradients in seen_failures if wrong]
    return {
        (layer, j): sum(g[layer][j] for g in failed) / len(failed)
        for layer in failed[0]
        for j in range(len(failed[0][layer]))
    }


def distances(g, block_of):
    """The factor of Eq. 6: |g_j - G| / max_k |g_k - G|, G = (1/B) sum_i G_i, G_i the mean of g_j
    over block i.
    """
    blocks = sorted(set(block_of.values()))
    of_block = {
        b: [value for (layer, _), value in g.items() if block_of[layer] == b] for b in blocks
    }
    mean = sum(sum(values) / len(values) for values in of_block.values()) / len(blocks)
    largest = max(abs(value - mean) for value in g.values())
    return {neuron: abs(value - mean) / largest for neuron, value in g.items()}


def algorithm_1(seen_failures, seen_retained, block_of, n):
    """Vulnerable neurons per block: those among the n highest of ŝ_j = |g_j - G| / max · s_j.
    Returns scores and counts.
    """
    s = tarantula(seen_failures + seen_retained)
    d = distances(mean_gradients(seen_failures), block_of)
    scores = {neuron: s[neuron] * d[neuron] for neuron in s}
    vulnerable = sorted(scores, key=lambda neuron: -scores[neuron])[:n]
    counts = {
        b: sum(1 for layer, _ in vulnerable if block_of[layer] == b)
        for b in dict.fromkeys(block_of.values())
    }
    return scores, counts
