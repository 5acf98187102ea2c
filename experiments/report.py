"""`advjax.cli.report`, from a checkout."""

import sys

from advjax.cli.report import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
