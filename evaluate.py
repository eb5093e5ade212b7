"""Tests checkpoints: `python evaluate.py ckpt=runs/.../best.ckpt`, also on other data (`data=folder data_dir=...`)."""

from emotion.training.evaluate import main

if __name__ == "__main__":
    main()
