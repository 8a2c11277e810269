"""The pipeline: the verbs that a user calls. The only place where a name becomes a model.

- repairing.py (`repair`): the whole way, from failures to a report.
- comparing.py (`compare`): several methods on the same; entrants.py: which, protocols.py: on what,
  shared.py: from what,
  shelf.py: kept in a folder.
- inspecting.py (`blocks`, `localize`, `collect_failures`): ask a model, change nothing.
- case.py: what a repair is about, and one run of a method on it.
- measuring.py: answers to the holdout and the cost of a model, the same before and after.
- repaired.py (`Repaired`): the model and its report; save, push, export.
"""
