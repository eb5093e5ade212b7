"""Trained networks at work on photographs, videos and requests; without PyTorch where the network allows it."""
