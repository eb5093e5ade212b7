"""Images and labels: sources, the packed array, splits, balance, augmentation, the LightningDataModule."""
