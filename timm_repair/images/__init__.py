"""Images: labelled images for one model, from whatever holds them.

- sources.py (`as_images`): the way in; opening.py tells which form a source has.
- folders.py, tables.py, examples.py, streams.py: the forms; readers.py: what they have in common.
- images.py (`Images`): labelled images, cheap to split and to index.
- summary.py (`Summary`): what was read, to be looked at.
- pool.py (`Pool`): their pixels, decoded ahead and kept.
- decoding.py: whatever holds one image; preprocessing.py: timm's transform for one model.
- scales.py: what values mean, alike for a whole source; naming.py: names of classes by their index.
- labels.py, label_maps.py, classes.py: the dataset's labels; the user's word; the model's classes.
- loading_errors.py: what datasets and the Hub raise, with the fix.
- corruptions/: the common corruptions.
"""
