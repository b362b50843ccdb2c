"""`python -m edgesam_cli`: the command `edgesam` where its script is not on the PATH."""

import sys

from edgesam_cli.main import main

if __name__ == "__main__":
    sys.exit(main())
