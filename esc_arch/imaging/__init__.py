"""Pixels and files: codecs, metadata, alpha, and MATLAB's bicubic resizing."""
