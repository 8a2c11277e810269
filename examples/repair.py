r"""Repair a model from the command line, on one process or many.

    accelerate launch examples/repair.py --model resnet50 --failures DIR_OR_FILE_OR_HUB_ID \
        --retain … --output out/

The same as `timm-repair repair …`; `--help` lists the options.
"""

import sys

from timm_repair.cli import main

if __name__ == "__main__":
    sys.exit(main(["repair", *sys.argv[1:]]))
