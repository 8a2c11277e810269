"""Architecture: what may be added to a block, and the search for it (§3.3).

- operations.py: the six operations (Table 3).
- genotype.py (`Genotype`): a plan as plain JSON, checked before anything is built.
- cell.py (`build`): a genotype put to work.
- skeleton.py (`skeleton_of`): a block's layers and the edges there may be between them.
- replacing.py: the layers that an operation may stand in the place of.
- relaxation.py (`relax`, `discretize`): a block differentiable in its architecture, and back.
- search.py (`search`): weights and architecture in turns (Eq. 9, 10).
- strategies/: one file a search strategy, and the table of all.
"""
