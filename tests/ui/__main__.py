"""Look at any screen in any state: `.venv/bin/python -m tests.ui vm-slow 60x20 mono > slow.svg`.

`list` names the states; `keep` accepts how all of them look now, as `make looks` does.
"""

import argparse
import sys

from tests.ui import test_pictures
from tests.ui.drawing import picture
from tests.ui.eyes import EYES, seen_by
from tests.ui.moments import MOMENTS


def main() -> int:
    given = _parser().parse_args()
    if given.moment == "list":
        print("\n".join(MOMENTS))
    elif given.moment == "keep":
        print("\n".join(test_pictures.keep()) or "every picture is as it was")
    else:
        columns, _, lines = given.size.partition("x")
        made = picture(MOMENTS[given.moment], (int(columns), int(lines)), given.theme, svg=not given.text)
        print(made.text if given.text else seen_by(given.eyes, made.svg) if given.eyes else made.svg)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.ui", description=__doc__)
    parser.add_argument("moment", choices=["list", "keep", *MOMENTS], metavar="MOMENT", help="one of `list`, or `keep`")
    parser.add_argument("size", nargs="?", default="80x24", metavar="COLUMNSxLINES")
    parser.add_argument("theme", nargs="?", default="dark", help="dark, light, contrast, mono")
    parser.add_argument("--text", action="store_true", help="as text instead of SVG")
    parser.add_argument("--eyes", choices=EYES, help="as a colour-blind person sees it")
    return parser


if __name__ == "__main__":
    sys.exit(main())
