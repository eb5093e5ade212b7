"""The device a network runs on, by its name."""

import torch

from emotion.errors import UserError


def find_device(name: str | torch.device | None = None) -> torch.device:
    """Returns a device that works here.

    Args:
        name: `cpu`, `cuda`, `cuda:1` ...; None takes a GPU if there is one.

    Raises:
        UserError: PyTorch has no such device here.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, TypeError):
        raise UserError(f"device={name}: not a device that PyTorch has here (cpu, cuda, cuda:1 ...)") from None
    return device
