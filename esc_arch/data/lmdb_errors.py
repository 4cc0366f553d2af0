"""What reading a damaged LMDB raises."""

__all__ = ["DamagedLmdb"]


class DamagedLmdb(Exception):
    """An LMDB that cannot be read.

    Attributes:
        expected, found: what of the file, for a message.
    """

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(expected, found)
        self.expected, self.found = expected, found

    def __str__(self) -> str:
        return f"expected {self.expected}; found {self.found}"
