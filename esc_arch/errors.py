"""The one exception for what a user can cause and mend, and how its text names many things."""

from collections.abc import Iterable


class UserError(Exception):
    """A mistake in an option file, a path, a checkpoint or a command line.

    Its text says which file and key, what was expected, what was found and what
    to do.  The command line prints it without a traceback and exits with 2.
    """


def listed(names: Iterable[object], limit: int = 40) -> str:
    """Names separated by commas, the first ``limit`` of them."""
    names = [str(name) for name in names]
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
