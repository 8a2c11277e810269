"""Saved models of strangers: everything is checked before anything is built or allocated, and
nothing in them is ever executed.

- config.py (`read_config`): a config.json reduced to what timm needs, every value checked.
- build.py (`outline`): the model that it describes, without memory for weights.
- weights.py (`check_weights`): a safetensors file compared with that outline.
"""
