"""`advjax.cli.run`, from a checkout."""

import sys

from advjax.cli.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
