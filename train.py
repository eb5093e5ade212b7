"""Trains one network: `python train.py model=vgg16_ft unfreeze=6`; every setting is in conf/config.yaml."""

import sys

from emotion.errors import exit_on_user_error
from emotion.extras import require_extra

if __name__ == "__main__":
    with exit_on_user_error():
        require_extra("train", "train.py")
        from emotion.config import show_help

        if not show_help(sys.argv[1:]):
            from emotion.training.command import main

            main()
