"""`python -m vmtui` is the same program as `vmtui`."""

from vmtui.cli import main

raise SystemExit(main())
