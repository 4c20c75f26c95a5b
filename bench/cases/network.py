"""Time training steps and segmentation with the network and its naive counterpart."""

import contextlib
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.cases.instruments import FlopCounter, Profiler
from bench.measuring import MB, time_calls
from bench.naive.network import NaiveFewShotSeg
from config_ssl_upload import Config, dataset_defaults, make_network, parse_config
from models.few_shot_seg import FewShotSeg
from models.inference.scan import Request, best_slices_per_call, segment_scan
from models.inference.segmenters import NetworkSegmenter
from models.precision import mixed_precision
from training import place_network, training_losses
from util.config.settings import merge_values
from util.engine.optimisation import make_optimizer
from util.parallel.devices import SINGLE_RANK
from util.parallel.hardware import choose_kernels

WARM_UP_PX = 64
QUERY_SEED, SUPPORT_SEED = 1, 2


@dataclass(frozen=True, kw_only=True)
class Case:
    """Network, input size and device of a measurement.

    Attributes:
        variant: `fast`, or `naive` for the naive counterpart (one episode of one shot).
    """

    size_px: int = 256
    batch_size: int = 1
    n_shots: int = 1
    precision: str = "fp32"
    compile: bool = False
    activation_checkpointing: bool = False
    channels_last: bool = True
    encoder: str = "resnet101"
    feature_width: int = 512
    device: str = "cpu"
    variant: str = "fast"

    def make_network(self) -> tuple[Config, FewShotSeg]:
        """Set the kernels up for the number format; returns the configuration and network."""
        choose_kernels(deterministic=False, precision=self.precision)
        network = {"encoder": self.encoder, "feature_width": self.feature_width, "encoder_weights": None}
        keys = ("batch_size", "precision", "compile", "activation_checkpointing")
        changes = {
            **{name: getattr(self, name) for name in keys},
            "n_shot": self.n_shots,
            "channels_last": self.channels_last and self.variant == "fast",
            "model": network,
        }
        config = parse_config(merge_values(dataset_defaults("CHAOST2"), changes))
        return config, make_network(config)

    def make_batch(self, size_px: int | None = None) -> dict[str, Tensor]:
        """Make episodes of noise with an ellipse that covers 5 percent of the slice."""
        size_px = size_px or self.size_px
        y, x = torch.meshgrid(*[torch.linspace(-1, 1, size_px)] * 2, indexing="ij")
        mask = ((y / 0.22) ** 2 + (x / 0.29) ** 2 < 1).float()
        shape = (self.batch_size, self.n_shots, 1, size_px, size_px)
        batch = {"episode_index": torch.arange(self.batch_size)}
        for name, seed, n_slices in (("support", SUPPORT_SEED, self.n_shots), ("query", QUERY_SEED, 1)):
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))[:, :n_slices]
            batch[f"{name}_images"] = noise + 2 * mask
            batch[f"{name}_masks"] = mask.expand(self.batch_size, n_slices, -1, -1).contiguous()
        return batch

    @property
    def synchronize(self) -> Callable[[], object] | None:
        """Function that waits for the device; None on a CPU."""
        return torch.cuda.synchronize if self.device.startswith("cuda") else None

    def device_memory(self) -> dict[str, Any]:
        """Return the peak on a CUDA device as a part of the result; empty on other devices."""
        if not self.device.startswith("cuda"):
            return {}
        return {"peak_mb": torch.cuda.max_memory_allocated(self.device) / MB, "on_device": True}


def time_training(
    repeats: int = 1, time_parts: bool = False, count_flop: bool = False, **options: Any
) -> dict[str, Any]:
    """Time training steps: forward in both directions, backward, optimiser.

    Args:
        repeats: timed steps, after a warm-up step on small slices.
        time_parts: also time the parts of one more step.
        count_flop: also count the operations of one more step.
        options: fields of `Case`.

    Returns:
        `seconds`, `peak_mb` on CUDA, `losses`, and, if requested, `parts` in seconds and `flop`.
    """
    case = Case(**options)
    device = torch.device(case.device)
    config, network = case.make_network()
    model = place_network(config, network.train(), device=device, ranks=SINGLE_RANK)
    optimizer = make_optimizer(config.optim, network.parameters(), device=device)
    compute_loss = _fast_loss if case.variant == "fast" else _naive_loss

    def step(size_px: int = case.size_px, profiler: Profiler | None = None) -> float:
        loss = compute_loss(model, case.make_batch(size_px), config, device)
        with profiler.part("backward") if profiler else contextlib.nullcontext():
            loss.backward()
        with profiler.part("optimiser") if profiler else contextlib.nullcontext():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    step(case.size_px if case.compile or device.type == "cuda" else WARM_UP_PX)
    gc.collect()
    losses: list[Tensor] = []
    seconds = time_calls(lambda: losses.append(step()), repeats, warm_up=0, synchronize=case.synchronize)
    result = {"seconds": seconds, "losses": [float(loss) for loss in losses], **case.device_memory()}
    if count_flop:
        with FlopCounter() as counter:
            step()
        result["flop"] = counter.total
    if time_parts:
        profiler = Profiler(case.synchronize)
        with profiler.profile(network):
            started = time.perf_counter()
            step(profiler=profiler)
            profiler.synchronize()
        result["parts"] = {**profiler.seconds, "whole step": time.perf_counter() - started}
    return result


def time_evaluation(
    repeats: int = 1, per_call: int = 1, n_slices: int = 4, count_flop: bool = False, **options: Any
) -> dict[str, Any]:
    """Time the segmentation of query slices, per slice, encoding included.

    The fast path prepares the support once, timed separately as `support_seconds`; the naive network encodes
    it again for each slice.
    """
    case = Case(**options)
    network, support, mask, query = _prepare_evaluation(case)
    queries = query.expand(n_slices, -1, -1, -1)
    result: dict[str, Any] = {}
    if case.variant == "fast":
        segmenter = NetworkSegmenter(network, precision=case.precision)
        segmenter.encode([queries[:1]])
        started = time.perf_counter()
        state = segmenter.prepare(segmenter.encode([support]), mask)
        result["support_seconds"] = time.perf_counter() - started

        def run() -> list[Tensor]:
            encodings = [segmenter.encode([images]) for images in queries.split(per_call)]
            size = tuple(queries.shape[-2:])
            return [segmenter.segment(state, encoding, image_size=size).cpu() for encoding in encodings]
    else:
        naive = NaiveFewShotSeg(network)

        @torch.inference_mode()
        def run() -> list[Tensor]:
            with mixed_precision(queries.device, case.precision):
                return [naive.predict(support, mask[None], query[None]).cpu() for query in queries]

    seconds = time_calls(run, repeats, synchronize=case.synchronize)
    result |= {"seconds": [total / n_slices for total in seconds], **case.device_memory()}
    if count_flop:
        with FlopCounter() as counter:
            run()
        result["flop"] = counter.total / n_slices
    return result


def time_volume(
    repeats: int = 1, n_organs: int = 4, slices_per_organ: int = 14, **options: Any
) -> dict[str, Any]:
    """Time the segmentation of several organs in a volume, as in evaluation.

    Each organ has three supports, whose preparation is included. Each organ begins at the middle slice of the
    previous one.
    """
    case = Case(**options)
    network, support, mask, query = _prepare_evaluation(case)
    segmenter = NetworkSegmenter(network, precision=case.precision)
    starts = [organ * slices_per_organ // 2 for organ in range(n_organs)]
    images = query.cpu().expand(starts[-1] + slices_per_organ, -1, -1, -1)
    segmenter.encode([query])

    def run() -> None:
        states: dict[tuple[int, int], Any] = {}

        def support_of(organ: int, part: int) -> Any:
            if (organ, part) not in states:
                states[organ, part] = segmenter.prepare(segmenter.encode([support]), mask)
            return states[organ, part]

        requests = [
            Request(
                slices=torch.arange(start, start + slices_per_organ),
                parts=torch.arange(slices_per_organ) * 3 // slices_per_organ,
                support_of=partial(support_of, organ),
            )
            for organ, start in enumerate(starts)
        ]
        for _ in segment_scan(
            segmenter,
            images,
            requests,
            per_call=best_slices_per_call(query.device),
            device=query.device,
            on_encoding=lambda text: None,
            on_segmented=lambda n: None,
        ):
            pass

    seconds = time_calls(run, repeats, warm_up=0, synchronize=case.synchronize)
    return {"seconds": seconds, "n_slices": n_organs * slices_per_organ, **case.device_memory()}


def _prepare_evaluation(case: Case) -> tuple[FewShotSeg, Tensor, Tensor, Tensor]:
    """Return the network, support `(1, 1, H, W)`, its mask `(H, W)` and query `(1, 1, H, W)`."""
    _, network = case.make_network()
    batch = case.make_batch()
    tensors = batch["support_images"][0], batch["support_masks"][0, 0], batch["query_images"][0]
    return network.to(case.device).eval(), *(tensor.to(case.device) for tensor in tensors)


def _fast_loss(model: nn.Module, batch: dict[str, Tensor], config: Config, device: torch.device) -> Tensor:
    losses = training_losses(model, batch, config=config, step=1, device=device)
    return (losses.query + losses.alignment).mean()


def _naive_loss(model: nn.Module, batch: dict[str, Tensor], config: Config, device: torch.device) -> Tensor:
    names = ("support_images", "support_masks", "query_images", "query_masks")
    tensors = [batch[name][0].to(device) for name in names]
    with mixed_precision(device, config.precision):
        return sum(NaiveFewShotSeg(model, randomly=True)(*tensors))
