import os
from pathlib import Path
from typing import Any

import pytest
from contestants.timm_script import script_options
from environments import describe_script
from faces import write_folders
from rounds import Contestant, run_process
from workloads import Job

# Replaces timm's train.py, which no package contains: it has the same functions and uses timm's loaders and models.
SCRIPT = """
import argparse
import torch
import timm
import yaml
from timm.data import create_dataset, create_loader
from timm.optim import create_optimizer_v2

def train_one_epoch(model, loader, optimizer, device=torch.device("meta")):
    model.train()
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

@torch.no_grad()
def validate(model, loader, device=torch.device("meta")):
    model.eval()
    for images, labels in loader:
        images = images.to(device)
        assert float(images.max()) <= 1
        model(images)

def main():
    parser = argparse.ArgumentParser()
    for name in ("data-dir", "train-split", "val-split", "model", "config", "output", "opt"):
        parser.add_argument("--" + name)
    for name in ("batch-size", "epochs", "workers", "num-classes"):
        parser.add_argument("--" + name, type=int)
    for name in ("lr", "opt-eps", "weight-decay", "hflip", "color-jitter"):
        parser.add_argument("--" + name, type=float)
    parser.add_argument("--no-prefetcher", action="store_true")
    parser.add_argument("--input-size", type=int, nargs=3)
    for name in ("mean", "std", "scale", "ratio"):
        parser.add_argument("--" + name, type=float, nargs="+")
    with open(parser.parse_known_args()[0].config) as file:
        parser.set_defaults(**yaml.safe_load(file))
    args, _ = parser.parse_known_args()
    device = torch.device(args.device)
    model = timm.create_model(args.model, pretrained=False, in_chans=args.input_size[0], num_classes=args.num_classes)
    optimizer = create_optimizer_v2(model, opt=args.opt, lr=args.lr, weight_decay=args.weight_decay, eps=args.opt_eps,
                                    fused=True)
    loaders = []
    for split in (args.train_split, args.val_split):
        dataset = create_dataset("", root=args.data_dir, split=split, is_training=split == "train"IMAGE_MODE)
        extra = dict(scale=args.scale, ratio=args.ratio, hflip=args.hflip, color_jitter=args.color_jitter)
        loaders.append(create_loader(dataset, args.input_size, args.batch_size, is_training=split == "train",
                                     mean=args.mean, std=args.std, num_workers=args.workers,
                                     use_prefetcher=not args.no_prefetcher, device=device,
                                     **(extra if split == "train" else {})))
    for _ in range(args.epochs):
        train_one_epoch(model, loaders[0], optimizerON_DEVICE)
        validate(model, loaders[1]ON_DEVICE)
    print("done")
"""
# Arguments that newer scripts pass, and that older ones leave at the functions' defaults.
NEW_ARGUMENTS = {
    "IMAGE_MODE": ', input_img_mode="L" if args.input_size[0] == 1 else "RGB"',
    "ON_DEVICE": ", device=device",
}


def job(data: Path, workload: str = "cnn", precision: str = "32-true") -> Job:
    return Job(workload, str(data), batch_size=32, epochs=2, precision=precision, workers=0, feature_views=0)


@pytest.mark.process
@pytest.mark.parametrize(
    ("workload", "old"),
    [("cnn", False), *(pytest.param(workload, True, marks=pytest.mark.check) for workload in ("vgg16_fe", "cnn"))],
)
def test_a_script_of_timms_shape_trains_our_network(workload: str, old: bool, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    data, script = tmp_path / "faces", tmp_path / "train.py"
    write_folders(data, "synthetic", tmp_path, 80)
    text = SCRIPT
    for marker, arguments in NEW_ARGUMENTS.items():
        text = text.replace(marker, "" if old else arguments)
    script.write_text(text)
    contestant = Contestant("timm", "contestants.timm_script", script=str(script))
    measured = run_process(contestant, job(data, workload))
    assert "error" not in measured, measured
    # Two full batches of 32; the loader leaves out the last 16 images.
    assert [epoch["images"] for epoch in measured["epochs"]] == [64, 64]
    assert all(epoch["train_seconds"] > 0 and epoch["val_seconds"] > 0 for epoch in measured["epochs"])
    assert 0 < measured["startup_seconds"] < 120
    assert "train.py given by --timm-script" in measured["note"]


def test_options_follow_the_workload(tmp_path: Path) -> None:
    grey, colour = script_options(job(tmp_path)), script_options(job(tmp_path, "vgg16_ft", "bf16-mixed"))
    assert grey[grey.index("--input-size") :][1:4] == ["1", "48", "48"]
    assert colour[colour.index("--mean") :][1:4] == ["0.0"] * 3
    assert "--amp" not in grey
    assert "--device" not in grey
    assert colour[-3:] == ["--amp", "--amp-dtype", "bfloat16"]


def test_a_given_script_is_identified_by_its_git_hash(tmp_path: Path) -> None:
    script = tmp_path / "timm-2023-train.py"
    script.write_bytes(b"hello\n")
    # The output of `git hash-object` for these six bytes.
    assert "timm-2023-train.py given by --timm-script (git blob ce01362503)" in describe_script(script)
