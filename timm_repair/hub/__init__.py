"""Hub: a repaired model as a folder, on the Hub, and back.

- saving.py, loading.py: to a folder; from a folder, a Hub id or any name that timm knows.
- pushing.py (`push_to_hub`, `save_pretrained`), fetching.py: to the Hub; from it.
- spaces.py (`push_space`): the app, as a Space of the Hub.
- entry_point.py: what timm builds, `timm_repaired(base, edits)`; registration.py: so timm knows it.
- exporting.py (`export`): one file that runs without timm_repair.
- folder.py: the files of a saved model.
- lineage.py (`revert`): the original, the way back to it, the repaired part alone.
- card.py, licenses.py, privacy.py: the model card, and what must not be in it.
- connection.py: the Hub's client and its errors.
- trust/: files of strangers, checked before anything is built.
"""
