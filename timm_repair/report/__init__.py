"""Report: what a repair changed, as values and in words. Knows no model and no data.

- report.py (`Report`): all that one repair has to say.
- scores.py (`Scores`): one population before and after.
- comparison.py (`Comparison`): several methods side by side, rows.py, under one seed or several,
  repeats.py; pairs.py: against each other; compared.py: in words; tasks.py (`Tasks`): over several.
- verdict.py (`Verdict`): whether it helped or harmed, in one sentence.
- versions.py: saved reports of older versions.
- tables.py, suspects.py, wording.py: tables and sentences, functions of the values they speak of.
- figures/: pictures of a report; pareto.py: one of a comparison.
- page/: all of it, to be looked at in a browser; gallery.py, examples.py: the images in it.
- facts.py: what report and page both stand on.
"""
