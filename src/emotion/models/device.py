"""Selection of the device that runs a network."""

import torch

from emotion.errors import UserError


def exact_float32() -> None:
    """Makes convolutions on GPUs compute float32 as such, as matrix products do; PyTorch's default is TF32.

    TF32 has 10 bits of a value in place of 23, so a close decision could differ from that of a CPU.
    """
    torch.backends.cudnn.allow_tf32 = False


def find_device(name: str | torch.device | None = None) -> torch.device:
    """Returns a device after checking that it works on this machine.

    Args:
        name: `cpu`, `cuda`, `cuda:1` ...; None selects a GPU if there is one, otherwise the CPU.

    Raises:
        UserError: PyTorch cannot use this device here.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, TypeError):
        raise UserError(f"device={name}: not a device that PyTorch has here (cpu, cuda, cuda:1 ...)") from None
    return device
