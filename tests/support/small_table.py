"""``table1.py`` on a Hollywood2 of 36 drawn clips instead of 240: what the miniature table does, in seconds."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from datamodules import miniature
from reproduce import table1

if __name__ == "__main__":
    miniature.HOLLYWOOD_CLIPS.update(train=24, test=12)
    table1.main()
