"""From image files to larger image files."""
