"""One run: the LightningModule, its callbacks, the feature cache, the run's folder."""
