"""The training loss: cross-entropy, with variants for rare classes and doubtful labels."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """Changes of the cross-entropy; the defaults change nothing.

    Attributes:
        label_smoothing: share of every label that is spread over all classes, 0..1 (Szegedy et al., "Rethinking the
            Inception Architecture", CVPR 2016).
        focal_gamma: exponent of the focal loss (Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017), which
            weights an image by (1 - p) ** gamma, where p is the probability of its label; 0 is off.
        logit_adjustment: tau of Menon et al., "Long-tail learning via logit adjustment", ICLR 2021: the training loss
            adds tau times the logarithm of each class's share of the training images to its logit; 0 is off.
    """

    label_smoothing: float = 0.0
    focal_gamma: float = 0.0
    logit_adjustment: float = 0.0


class EmotionLoss(nn.Module):
    """Cross-entropy, averaged over the images; as in Keras, class weights do not change the divisor.

    Args:
        settings: changes of the cross-entropy.
        class_weights: weight of each class, float [K]; None weights all classes equally.
        class_shares: share of each class among the training images, float [K], sum 1; needed for `logit_adjustment`.
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
        losses = self._cross_entropy(logits, labels)  # [B]
        if self.settings.focal_gamma:
            shares = labels if labels.is_floating_point() else F.one_hot(labels, logits.shape[1])  # [B, K]
            # At 0 the gradient of x ** gamma is infinite for gamma < 1, and rounding can make 1 - p negative.
            doubt = (1 - (logits.softmax(1) * shares).sum(1)).clamp_min(torch.finfo(logits.dtype).eps)  # [B]
            losses = losses * doubt**self.settings.focal_gamma
        return losses.mean()

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        smoothing = self.settings.label_smoothing
        if self.weights is None or not smoothing:
            return F.cross_entropy(logits, labels, self.weights, reduction="none", label_smoothing=smoothing)
        # The weight of an image is that of its label. PyTorch would weight each class's part of the smoothed label by
        # the weight of that class, which would push all predictions towards the rarest class.
        weights = labels @ self.weights if labels.is_floating_point() else self.weights[labels]  # [B]
        sharp = F.cross_entropy(logits, labels, self.weights, reduction="none")
        return (1 - smoothing) * sharp - smoothing * weights * logits.log_softmax(1).mean(1)
