"""What the failures of a model have in common, asked before anything is repaired.

- diagnosing.py (`diagnose`): one question after the other.
- diagnosis.py: the answer, `Diagnosis`; wording.py: in words; applying.py: more failures from it;
  drawing.py: as a picture.
- parts/: what an image may have gone through; statistics.py, early.py: what it looks like then.
- fitting.py, choosing.py: the strengths and the parts with which retained images look like
  failures; telling.py: how well; populations.py: whether there are several.
- undoing.py, looking.py, trying.py: wrong preprocessing, what images look like with it, and what
  the model says when it is undone.
- classes.py, quality.py: confused classes, wrong labels, images that are no good.
"""
