"""`python -m seq2seq_zoo` is the command `seq2seq-zoo`."""

import sys

from .cli import main

sys.exit(main())
