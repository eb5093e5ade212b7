"""Tests checkpoints: `python evaluate.py ckpt=runs/.../best.ckpt`; other data with `data=folder data_dir=...`."""

from emotion.errors import exit_on_user_error
from emotion.extras import require_extra

if __name__ == "__main__":
    with exit_on_user_error():
        require_extra("train", "evaluate.py")
        from emotion.training.evaluate import main

        main()
