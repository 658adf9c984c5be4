"""`python -m action_ddim` is `action-ddim`."""

import sys

from action_ddim.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
