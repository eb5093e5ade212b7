"""Networks: the paper's scratch CNN, residual networks, pretrained backbones with a head, and their weights."""
