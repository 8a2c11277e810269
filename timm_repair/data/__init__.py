"""Data: the failures found, checked, and split before anything is looked at.

- preparing.py (`prepare`): whatever the user calls failures, retain and holdout, as `RepairData`.
- repair_data.py (`RepairData`): what a repair trains on, chooses by and measures on.
- options.py (`DataOptions`): how data are read and split.
- collecting.py (`collect_failures`): the examples that a model gets wrong; collecting_streams.py
  for data that cannot be held as a whole; collected.py: what both give.
- checking.py: labels against the model's own answers.
- splits.py: disjoint splits; which images are the same.
- predicting.py (`predict`): a model's answers to a set of images.
"""
