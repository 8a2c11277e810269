"""The common corruptions of Hendrycks & Dietterich (ICLR 2019).

- corrupting.py (`corrupt`): arrays, images and datasets under one corruption.
- parameters.py: their names, families and published parameters.
- kernels.py: what each does to a batch.
- filters.py, textures.py: what kernels are made of.
"""
