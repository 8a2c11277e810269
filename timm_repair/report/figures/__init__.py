"""Figures of a Report, drawn without pyplot: nothing global changes, no screen is needed.

Each returns a `matplotlib.figure.Figure` of its own; matplotlib is an optional extra:
`pip install timm_repair[figures]`.

- overview.py (`overview`, the one for a README; `save_all`).
- suspiciousness.py: where the fault was suspected.
- architecture.py: what was built.
- accuracy.py (`before_after`): what it changed.
- trajectories.py: how training and search went.
- patterns.py: what failures have in common, before anything is repaired.
- drawing.py: what all figures share.
"""
