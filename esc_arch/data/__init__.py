"""Image sets: preparing, reading, checking, and datasets that BasicSR lacks."""
