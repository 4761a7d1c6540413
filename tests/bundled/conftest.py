"""The rules behind the bundled checkpoints live in tools/, beside the scripts that made them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
