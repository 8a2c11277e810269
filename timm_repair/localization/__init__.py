"""Localization: which block of a model is to blame for its failures (§3.2, Algorithm 1).

- localizing.py (`localize`): scores blocks by a score's name or object; start here.
- localization.py (`Localization`): what comes out: scores, errors, ties.
- target.py (`Target`): which blocks a method repairs; look here for a method's options.
- scorers/: one file a score, and the table of all.
- scores.py: what a score is, to write your own.
- vulnerable.py: scores of neurons to scores of blocks (Algorithm 1).
- sweep.py, passes.py: one pass over the data, by models/taps.py; what passes share.
- folds.py: gradients of parts of the failures, the jackknife.
"""
