"""``python -m npdl``: see `npdl.cli`."""

import sys

from npdl.cli import main

sys.exit(main())
