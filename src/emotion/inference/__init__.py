"""Inference on images, videos and HTTP requests with trained networks; `.onnx` files need no PyTorch."""
