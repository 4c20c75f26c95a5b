"""Adapt a trained network to one annotated scan, on episodes of that scan.

Lineage: test-time training; Sun et al., "Test-Time Training with Self-Supervision", ICML 2020, here with the
support's own mask as the target, as in one-shot fine-tuning.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.few_shot_seg import FewShotSeg
from models.losses import Criterion, episode_losses
from models.precision import mixed_precision

# What trains, by the value of the configuration key `adaptation.parts`.
PARTS: dict[str, Callable[[FewShotSeg], list[nn.Module]]] = {
    "all": lambda model: [model],
    "all_but_encoder": lambda model: [model.mining, model.matching],
    "decoders": lambda model: [model.matching.decoder_bg, model.matching.decoder_fg],
}


class Adaptation:
    """Train a network on a support's episodes: take steps, checkpoint and resume.

    BatchNorm statistics of parts that do not train stay as they are.

    Args:
        model: on its device; trained in place, and left in training mode.
        parts: one of `PARTS`.
        make_optimizer: builds the optimiser of the parameters that train.
        learning_rate: returns the learning rate of a step, counted from 1.
        criterion: see `models.losses`.
        precision: see `mixed_precision`.

    Attributes:
        step: steps done.
    """

    def __init__(
        self,
        model: FewShotSeg,
        *,
        parts: str,
        make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        learning_rate: Callable[[int], float],
        criterion: Criterion,
        precision: str,
    ) -> None:
        self.step = 0
        self.model = model
        self._learning_rate = learning_rate
        self._criterion, self._precision = criterion, precision
        model.eval().requires_grad_(False)
        for part in PARTS[parts](model):
            part.train().requires_grad_(True)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizer = make_optimizer(trained)

    def take_step(self, episode: Mapping[str, Tensor], *, seed: int) -> float:
        """Train on a batch of episodes.

        Args:
            episode: `support_images`, `support_masks`, `query_images` and `query_masks`, as
                `FewShotSeg.forward` and `episode_losses` take them.
            seed: of dropout and prototype sampling.

        Returns:
            The loss.

        Raises:
            FloatingPointError: the loss is not finite; the weights are as they were.
        """
        device = next(self.model.parameters()).device
        names = ("support_images", "support_masks", "query_images", "query_masks")
        images, masks, query_images, query_masks = (episode[name].to(device) for name in names)
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate(self.step + 1)
        torch.manual_seed(seed)
        seeds = torch.full((len(images),), seed, device=device)
        with mixed_precision(device, self._precision):
            output = self.model(images, masks, query_images, prototype_seeds=seeds)
            loss = episode_losses(output, masks, query_masks, self._criterion).total
        if not loss.isfinite():
            raise FloatingPointError(f"loss is {loss.item()} in step {self.step + 1}")
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        self.step += 1
        return loss.item()

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes from step to step."""
        return {
            "step": self.step,
            "weights": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from the state of an adaptation of the same network and settings."""
        self.model.load_state_dict(state["weights"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
