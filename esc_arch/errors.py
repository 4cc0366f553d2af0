"""The one exception for mistakes of a user, and how its text lists many names."""

from collections.abc import Iterable


class UserError(Exception):
    """A mistake in an option file, a path, a checkpoint or a command line.

    Its text says which file and key, what was expected, what was found and what
    to do.  The command line prints it without a traceback and exits with 2.
    """


def listed(names: Iterable[object], limit: int = 40) -> str:
    """Names separated by commas, the first ``limit`` of them."""
    texts = [str(name) for name in names]
    rest = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + rest
