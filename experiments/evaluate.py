"""`advjax.cli.evaluate`, from a checkout."""

import sys

from advjax.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
