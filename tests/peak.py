"""How much memory a test takes, whatever earlier ones took."""

from pathlib import Path


class Peak:
    """The most memory that this process held since the last look, in MiB; that of earlier tests does not count."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begins to look anew."""
        Path("/proc/self/clear_refs").write_text("5")
        self._before = self._most()

    def growth(self) -> float:
        """By how much more the process held at any moment since the start than at that."""
        return self._most() - self._before

    def _most(self) -> float:
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status["VmHWM"].split()[0]) / 1024
