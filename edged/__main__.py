"""`python -m edged`."""

import sys

from edged.commands.cli import main

sys.exit(main())
