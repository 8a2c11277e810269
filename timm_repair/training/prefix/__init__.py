"""The prefix of the trained part: what a model computes before it is computed once and kept.

- forward.py (`Forward`): runs a model from where its part begins, as far as that is kept.
- costs.py: whether that pays, counted and not measured.
- room.py (`Room`): where maps are kept, on the device and in files.
"""
