"""The training loss: cross-entropy, with variants for rare classes and doubtful labels."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emotion.errors import UserError
from emotion.plugins import own_code
from emotion.settings import DistillationSettings, LossSettings


class EmotionLoss(nn.Module):
    """Cross-entropy, averaged over the images; as in Keras, class weights do not change the divisor.

    With the soft targets of teachers, the loss is the weighted sum of this and of the divergence from them (Hinton et
    al., "Distilling the Knowledge in a Neural Network", arXiv:1503.02531).

    Args:
        settings: changes of the cross-entropy; the defaults change nothing. `label_smoothing` follows Szegedy et al.,
            "Rethinking the Inception Architecture", CVPR 2016. `focal_gamma` is the exponent of the focal loss (Lin et
            al., ICCV 2017), which weights an image by (1 - p) ** gamma, where p is the probability of its label.
            `logit_adjustment` is the tau of Menon et al., "Long-tail learning via logit adjustment", ICLR 2021: the
            loss adds tau times the logarithm of each class's share of the training images to its logit.
        class_weights: weight of each class, float [K]; None weights all classes equally.
        class_shares: share of each class among the training images, float [K], sum 1; needed for `logit_adjustment`.
        own: the user's class that `settings.loss` names, in place of the cross-entropy; class weights apply to it if it
            returns a loss for each image, the other changes do not.
        distillation: share of the teachers, and the temperature of their soft targets.

    Raises:
        UserError: the user's loss cannot be made, or other changes of the loss are set beside it.
    """

    weights: Tensor | None
    offsets: Tensor

    def __init__(
        self,
        settings: LossSettings,
        class_weights: Tensor | None = None,
        class_shares: Tensor | None = None,
        own: Callable[[], nn.Module] | None = None,
        distillation: DistillationSettings = DistillationSettings(),  # noqa: B008, frozen
    ) -> None:
        super().__init__()
        self.settings, self.distillation, self.own = settings, distillation, _make(settings, own)
        offsets = torch.zeros(()) if class_shares is None else settings.logit_adjustment * class_shares.log()
        self.register_buffer("weights", class_weights, persistent=False)
        self.register_buffer("offsets", offsets, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor, soft_targets: Tensor | None = None) -> Tensor:
        """Returns the loss (scalar) of logits [B, K].

        Args:
            logits: float [B, K].
            labels: int64 [B], or float [B, K] with rows that sum to 1.
            soft_targets: probabilities of the teachers at `distill_temperature`, float [B, K]; None without teachers.
        """
        loss = self._label_loss(logits, labels)
        if soft_targets is None:
            return loss
        share, temperature = self.distillation.distill, self.distillation.distill_temperature
        # The square keeps the gradients of this part as large at any temperature.
        own = (logits / temperature).log_softmax(1)  # [B, K]
        divergence = F.kl_div(own, soft_targets, reduction="batchmean") * temperature**2
        return (1 - share) * loss + share * divergence

    def _label_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.own is not None:
            return self._own_loss(self.own, logits, labels)
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
        weights = self._image_weights(self.weights, labels)
        sharp = F.cross_entropy(logits, labels, self.weights, reduction="none")
        return (1 - smoothing) * sharp - smoothing * weights * logits.log_softmax(1).mean(1)

    def _own_loss(self, own: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
        with own_code(f"loss={self.settings.loss}", f"fails on logits {list(logits.shape)}"):
            losses: Tensor = own(logits, labels)
        if losses.shape == labels.shape[:1] and self.weights is not None:
            losses = losses * self._image_weights(self.weights, labels)
        if self.weights is not None and losses.shape == ():
            raise UserError(
                f"loss={self.settings.loss}: returns a mean, on which class weights cannot act; return losses [B], or "
                "set balance=none"
            )
        if losses.shape not in (labels.shape[:1], ()):
            raise UserError(
                f"loss={self.settings.loss}: returns {list(losses.shape)}; losses [B] or their mean are needed"
            )
        return losses.mean()

    @staticmethod
    def _image_weights(weights: Tensor, labels: Tensor) -> Tensor:
        """Returns the weight of each image's label, float [B]."""
        # Not as a product of matrices, which autocast would compute in half precision.
        return (labels * weights).sum(1) if labels.is_floating_point() else weights[labels]


def _make(settings: LossSettings, own: Callable[[], nn.Module] | None) -> nn.Module | None:
    if own is None:
        return None
    others = [key for key, value in settings.flat().items() if key != "loss" and value]
    if others:
        raise UserError(
            f"{others[0]}: a change of the cross-entropy, which loss={settings.loss} replaces; set {others[0]}=0"
        )
    with own_code(f"loss={settings.loss}", "cannot be made"):
        return own()
