"""`advjax.cli.compile_for`, from a checkout."""

import sys

from advjax.cli.compile_for import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
