"""`python -m dagrun`, where the command `dagrun` is not on the path."""

import sys

from dagrun.cli.main import main

sys.exit(main())
