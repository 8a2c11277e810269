"""Images: labelled images for one model, from whatever holds them.

- sources.py (`as_images`): the way in; opening.py opens paths, Hub ids and datasets.
- images.py (`Images`): labelled images, cheap to split and to index.
- pool.py (`Pool`): their pixels, decoded ahead and kept.
- preprocessing.py: timm's transform for one model.
- readers.py, streams.py: raw images of lists, folders, columns; of streams.
- labels.py, classes.py: the dataset's labels; the model's classes.
- loading_errors.py: what datasets and the Hub raise, with the fix.
- corruptions/: the common corruptions.
"""
