"""Transforming: how the images of a batch are changed, each by amounts of its own, for methods that
train on changed images.

- warping.py (`warped`): rotation, shear, zoom and shift, at once.
- operations.py: what a chain of AugMix is made of.
- chains.py (`Chains`): AugMix; guided.py (`Guided`): one of its chains is led by a failure;
  styled.py (`Styled`): one of its operations gives an image the style of a failure.
- styles.py: which failures are references of style, and how a style is transferred.
- genes.py (`Space`): transformations as small integers that mutate and cross.

All take and give uint8 (n, C, H, W), or float on the scale 0 to 255 where images are mixed. What is
random is drawn apart, on the CPU, one row an image: all processes draw for the whole batch, and
each reads its own part of it.
"""
