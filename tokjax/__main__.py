"""`python -m tokjax`."""

import sys

from tokjax.cli import main

sys.exit(main())
