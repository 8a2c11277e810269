"""One row per method, strategy and scorer: the options that make it tiny. A new one without a row
fails test_every_… at once.
"""

BUDGET = {"steps": 6, "batch_size": 16, "evaluations": 1, "hflip": 0.0, "shift": 0.0}

# label -> (method, options); every method of METHODS appears, those with several faces several
# times
METHOD_CASES = {
    "archrepair": ("archrepair", BUDGET | {"block": "layer3"}),
    "archrepair localized": ("archrepair", BUDGET | {"score": "rgn", "level": "layer"}),
    "archrepair darts": ("archrepair", BUDGET | {"block": "layer2", "strategy": "darts"}),
    "archrepair random": ("archrepair", BUDGET | {"block": "layer3", "genotype": "random"}),
    "archrepair raw": ("archrepair", BUDGET | {"block": "layer3", "genotype": "raw"}),
    "archrepair two blocks": ("archrepair", BUDGET | {"score": "rgn", "blocks": 2}),
    "archrepair random, two blocks": (
        "archrepair",
        BUDGET | {"block": ("layer2", "layer3"), "genotype": "random"},
    ),
    "finetune network": ("finetune", BUDGET),
    "finetune block": ("finetune", BUDGET | {"level": "block", "block": "layer2"}),
    "finetune layer": ("finetune", BUDGET | {"level": "layer", "block": "layer1.0.conv1"}),
    "finetune two blocks": ("finetune", BUDGET | {"level": "block", "score": "rgn", "blocks": 2}),
    "finetune two layers": (
        "finetune",
        BUDGET | {"level": "layer", "block": ["layer1.0.conv1", "layer3.0.conv2"]},
    ),
    "bn_recalibration": ("bn_recalibration", BUDGET | {"batches": 2}),
}

STRATEGY_CASES = {"pc_darts": {}, "darts": {}}

# scorer -> whether it claims to name a planted fault
SCORER_CASES = {
    "spectrum_gradient": False,
    "spectrum": False,
    "gradient": False,
    "enrichment": False,
    "shift": False,
    "gain": False,
    "rgn": True,
    "probe": False,
    "random": False,
}
