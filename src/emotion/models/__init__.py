"""Networks: the report's scratch CNN, pretrained backbones with a head, their weights."""
