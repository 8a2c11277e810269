"""The app: try a repaired model on images, collect what it still gets wrong, repair again. Needs
the extra `[app]`, but for what is not drawn.

- opening.py: which repairs a place holds; pair.py: the original and the repaired model, asked
  together.
- uploads.py: images that somebody dropped, within bounds; failures.py: the folder of wrong ones.
- runs.py: repairs in a process of their own, worker.py: that process.
- workbench.py (`Workbench`): all that the app does, without its looks.
- views.py, fragments.html, app.css: what it shows, as HTML; page.py: in gradio.
- serving.py (`serve`): on this machine; or as a Space.
"""
