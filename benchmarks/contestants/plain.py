"""A plain PyTorch loop: ImageFolder, torchvision's transforms image by image, a DataLoader, `.item()` in every step."""

from pathlib import Path
from typing import Any

import torch
from measurement import run_contestant
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode, v2
from workloads import ROTATION, SHEAR, SHIFT, ZOOM, Job

from contestants.pytorch import DEVICE, ON_GPU, autocast, build, build_adam, loss_weights, measured, start_clock


def main(job: Job) -> dict[str, Any]:
    """Trains for the epochs of the job and returns the measurement."""
    clock = start_clock(job)
    dataset = _dataset(job, "train")
    train, val = _loader(job, dataset, shuffle=True), _loader(job, _dataset(job, "val"), shuffle=False)
    network = build(job.network)
    criterion = nn.CrossEntropyLoss(loss_weights(torch.tensor(dataset.targets)))
    optimizer = build_adam(network.parameters())
    for _ in range(job.epochs):
        clock.epoch_begins(len(dataset))
        network.train()
        total_loss, correct = 0.0, 0
        for images, labels in train:
            images, labels = images.to(DEVICE), labels.to(DEVICE)
            optimizer.zero_grad()
            with autocast(job):
                logits = network(images)
                loss = criterion(logits, labels)
            loss.backward()
            optimizer.step()
            clock.step_ends()
            total_loss += loss.item() * len(labels)
            correct += int((logits.argmax(1) == labels).sum().item())
        clock.validation_begins()
        _validate(network, val, job)
        clock.validation_ends()
    clock.finish()
    note = f"{job.workers} loader processes; black fill and one zoom for both axes, as torchvision has no other"
    return measured(clock, network, note, ["torchvision"])


def _dataset(job: Job, part: str) -> ImageFolder:
    augmentation = v2.RandomAffine(
        ROTATION, (SHIFT, SHIFT), (1 - ZOOM, 1 + ZOOM), SHEAR, interpolation=InterpolationMode.BILINEAR
    )
    steps = [v2.Grayscale(), *[augmentation] * (part == "train"), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    return ImageFolder(Path(job.data) / part, v2.Compose(steps))


def _loader(job: Job, dataset: ImageFolder, shuffle: bool) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        job.batch_size,
        shuffle=shuffle,
        num_workers=job.workers,
        persistent_workers=job.workers > 0,
        pin_memory=ON_GPU,
    )


@torch.no_grad()
def _validate(network: nn.Module, loader: DataLoader[Any], job: Job) -> tuple[float, float]:
    """Returns loss and accuracy."""
    network.eval()
    total_loss, correct, count = 0.0, 0, 0
    for images, labels in loader:
        images, labels = images.to(DEVICE), labels.to(DEVICE)
        with autocast(job):
            logits = network(images)
            loss = nn.functional.cross_entropy(logits, labels)
        total_loss += loss.item() * len(labels)
        correct += int((logits.argmax(1) == labels).sum().item())
        count += len(labels)
    return total_loss / count, correct / count


if __name__ == "__main__":
    run_contestant(main)
