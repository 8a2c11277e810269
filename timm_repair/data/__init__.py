"""Data: the failures found, checked, and split before anything is looked at.

- preparing.py (`prepare`): whatever the user calls failures, retain and holdout, as `RepairData`.
- repair_data.py (`RepairData`): what a repair trains on, chooses by and measures on.
- options.py (`DataOptions`): how data are read and split.
- collecting.py (`collect_failures`): the examples that a model gets wrong; collecting_streams.py
  for data that cannot be held as a whole.
- splits.py: disjoint splits; no example under two names.
- predicting.py (`predict`): a model's answers to a set of images.
"""
