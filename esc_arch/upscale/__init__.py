"""From image files to bigger image files."""
