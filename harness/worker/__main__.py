"""``python -m harness.worker``: the process that holds a submission; started by the handle, never by hand."""

import sys

from harness.worker.serve import main

if __name__ == "__main__":
    main(sys.argv[1:])
