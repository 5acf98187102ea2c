"""`advjax.cli.export`, from a checkout."""

import sys

from advjax.cli.export import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
