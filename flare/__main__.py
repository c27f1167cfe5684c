"""`python -m flare`."""

from flare.cli import main

raise SystemExit(main())
