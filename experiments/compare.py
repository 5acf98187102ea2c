"""`advjax.cli.compare`, from a checkout."""

import sys

from advjax.cli.compare import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
