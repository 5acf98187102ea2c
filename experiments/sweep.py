"""`advjax.cli.sweep`, from a checkout."""

import sys

from advjax.cli.sweep import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
