"""``python -m esc_arch`` is the ``basicsr`` command."""

import sys

from esc_arch.cli.main import main

sys.exit(main())
