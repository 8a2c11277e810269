"""timm_repair: repair trained timm image classifiers at the level of blocks, and report honestly
what was fixed and what was broken.

Importing it registers one timm entry point, `timm_repaired`, so that `timm.create_model` can load
repaired models; nothing else changes. torch and timm are imported when they are needed: a name of
`__init__.pyi`, which lists all of them, when it is first asked for, and the entry point is
registered once timm is there. All errors are in `timm_repair.errors`.
"""

import lazy_loader as _lazy_loader
import wrapt as _wrapt

from timm_repair.hub.registration import register as _register

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = _lazy_loader.attach_stub(__name__, __file__)

_wrapt.when_imported("timm")(_register)
