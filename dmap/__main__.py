"""`python -m dmap`, the same as the command `dmap`."""

import sys

from dmap.cli import main

sys.exit(main())
