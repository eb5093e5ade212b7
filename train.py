"""Trains one network: `python train.py model=vgg16_ft unfreeze=6`; every setting is in conf/config.yaml."""

from emotion.training.command import main

if __name__ == "__main__":
    main()
