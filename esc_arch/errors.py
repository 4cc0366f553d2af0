"""The one exception for what a user can cause and mend."""


class UserError(Exception):
    """A mistake in an option file, a path, a checkpoint or a command line.

    Its text says which file and key, what was expected, what was found and what
    to do.  The command line prints it without a traceback and exits with 2.
    """
