"""The training loss, with what helps where classes are rare or labels doubtful."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """What the cross-entropy is changed by; the defaults change nothing.

    Attributes:
        label_smoothing: share of every label that is spread over all classes (Szegedy et al., "Rethinking the
            Inception Architecture", CVPR 2016).
        focal_gamma: power of the focal loss (Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017), which
            weighs an image by (1 - p) ** gamma, p the probability given to its label.
        logit_adjustment: tau of Menon et al., "Long-tail learning via logit adjustment", ICLR 2021: in training, tau
            times the logarithm of each class's share of the training images is added to its logit.
    """

    label_smoothing: float = 0.0
    focal_gamma: float = 0.0
    logit_adjustment: float = 0.0


class EmotionLoss(nn.Module):
    """Cross-entropy, mean over the images: a weighted one is not divided by the sum of the weights, as in Keras.

    Args:
        settings: what it is changed by.
        class_weights: float [K]; None weighs all alike.
        class_shares: float [K], of the training images, sum 1; only needed for `logit_adjustment`.
    """

    weights: Tensor | None
    offsets: Tensor

    def __init__(
        self, settings: LossSettings, class_weights: Tensor | None = None, class_shares: Tensor | None = None
    ) -> None:
        super().__init__()
        self.settings = settings
        offsets = torch.zeros(()) if class_shares is None else settings.logit_adjustment * class_shares.log()
        self.register_buffer("weights", class_weights, persistent=False)
        self.register_buffer("offsets", offsets, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns the loss (scalar) of logits [B, K] for labels, int64 [B] or float [B, K] with rows that sum to 1."""
        logits = logits + self.offsets
        losses = self._cross_entropy(logits, labels)
        if self.settings.focal_gamma:
            shares = labels if labels.is_floating_point() else F.one_hot(labels, logits.shape[1])
            # A power has no finite slope at 0 if it is less than 1, and of less than 0, which rounding makes, no value.
            doubt = (1 - (logits.softmax(1) * shares).sum(1)).clamp_min(torch.finfo(logits.dtype).eps)
            losses = losses * doubt**self.settings.focal_gamma
        return losses.mean()

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        smoothing = self.settings.label_smoothing
        if self.weights is None or not smoothing:
            return F.cross_entropy(logits, labels, self.weights, reduction="none", label_smoothing=smoothing)
        # An image weighs as much as its label. PyTorch would weigh each class's part of the smoothed label by that
        # class, so that every image learned to look like the rarest.
        weights = labels @ self.weights if labels.is_floating_point() else self.weights[labels]
        sharp = F.cross_entropy(logits, labels, self.weights, reduction="none")
        return (1 - smoothing) * sharp - smoothing * weights * logits.log_softmax(1).mean(1)
