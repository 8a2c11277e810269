"""`python -m timm_repair` is the console command `timm-repair`."""

import sys

from timm_repair.cli import main

sys.exit(main())
