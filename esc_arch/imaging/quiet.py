"""Lines that decoders write to the standard error output by themselves."""

import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet"]

_one = threading.Lock()


@contextmanager
def quiet(lines: re.Pattern[bytes]) -> Iterator[None]:
    """Keep a decoder's lines out of the standard error output; the first is in the error raised.

    libtiff and libpng write them to the file number of the process.  What other threads write
    there meanwhile is written when the block ends.

    Args:
        lines: matches the beginning of the decoder's lines, up to its message.

    Raises:
        ValueError: in the place of any exception in the block.
    """
    with _one, tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(held.fileno(), 2)
        failed: Exception | None = None
        try:
            yield
        except Exception as error:
            failed = error
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            written = held.read().splitlines(keepends=True)
        own = [line for line in written if lines.match(line)]
        os.write(2, b"".join(line for line in written if line not in own))
        if failed is not None:
            text = own[0].decode("utf-8", "replace").split(":", 1)[1] if own else str(failed)
            raise ValueError(text.strip()) from None
