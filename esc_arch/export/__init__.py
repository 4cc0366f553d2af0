"""Writing trained networks as ONNX and ``.pt2`` files, and running ONNX files."""
