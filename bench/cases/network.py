"""Steps of the network and of its naive twin, to be timed."""

import contextlib
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.cases.instruments import Clock, OperationCounter
from bench.measuring import time_calls
from bench.naive.network import NaiveFewShotSeg
from config_ssl_upload import Config, dataset_defaults, make_network, parse_config
from models.few_shot_seg import FewShotSeg
from models.inference.scan import Request, best_slices_per_call, segment_scan
from models.inference.segmenters import NetworkSegmenter
from models.precision import mixed_precision
from training import place_network, training_losses
from util.engine.optimisation import make_optimizer
from util.parallel.devices import SINGLE_RANK
from util.parallel.hardware import choose_kernels

WARM_UP_PX = 64
QUERY_SEED, SUPPORT_SEED = 1, 2
PARTS = ("encoder", "prototypes", "prior masks", "attention", "matching", "decoders")


@dataclass(frozen=True)
class Case:
    """What a step is made of.

    Attributes:
        size_px: height and width of the slices.
        batch_size, n_shots: episodes, and support slices of each.
        precision, compile, activation_checkpointing, channels_last: the configuration's keys.
        encoder, feature_width: of the network.
        device: where it runs.
        variant: `fast`, or `naive` for the twin (one episode of one shot).
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

    def config(self) -> Config:
        """Return the training configuration that the case stands for."""
        config = parse_config(dataset_defaults("CHAOST2"))
        network = {"encoder": self.encoder, "feature_width": self.feature_width, "encoder_weights": None}
        changes = {
            "batch_size": self.batch_size,
            "n_shot": self.n_shots,
            "precision": self.precision,
            "compile": self.compile,
            "activation_checkpointing": self.activation_checkpointing,
            "channels_last": self.channels_last and self.variant == "fast",
            "model": config.model.model_copy(update=network),
        }
        return config.model_copy(update=changes)


def make_batch(case: Case, size_px: int) -> dict[str, Tensor]:
    """Make episodes of noise and an ellipse that takes 5 percent of the slice."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, size_px)] * 2, indexing="ij")
    mask = ((y / 0.22) ** 2 + (x / 0.29) ** 2 < 1).float()
    shape = (case.batch_size, case.n_shots, 1, size_px, size_px)

    def images(seed: int, n_images: int) -> Tensor:
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))[:, :n_images]
        return noise + 2 * mask

    def masks(n_images: int) -> Tensor:
        return mask.expand(case.batch_size, n_images, size_px, size_px).contiguous()

    return {
        "support_images": images(SUPPORT_SEED, case.n_shots),
        "support_masks": masks(case.n_shots),
        "query_images": images(QUERY_SEED, 1),
        "query_masks": masks(1),
        "episode_index": torch.arange(case.batch_size),
    }


def time_training(
    repeats: int = 1, parts: bool = False, count: bool = False, **options: Any
) -> dict[str, Any]:
    """Time training steps: forward in both directions, backward, optimiser.

    Args:
        repeats: timed steps, after one on small slices that readies the libraries.
        parts: also time the parts of one more step.
        count: also count the operations of one more step.
        options: fields of `Case`.

    Returns:
        `seconds`, `peak_mb` on CUDA, `losses`, and, if asked for, `parts` in seconds and `flop`.
    """
    case = Case(**options)
    device = torch.device(case.device)
    config = case.config()
    choose_kernels(deterministic=False, precision=case.precision)
    network = make_network(config).train()
    model = place_network(config, network, device=device, ranks=SINGLE_RANK)
    optimizer = make_optimizer(config.optim, network.parameters(), device=device)
    compute = _fast_loss if case.variant == "fast" else _naive_loss

    def step(size_px: int, clock: Clock | None = None) -> float:
        batch = make_batch(case, size_px)
        total = compute(model, batch, config, device)
        with clock.part("backward") if clock else contextlib.nullcontext():
            total.backward()
        with clock.part("optimiser") if clock else contextlib.nullcontext():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return total.detach()

    step(case.size_px if case.compile or device.type == "cuda" else WARM_UP_PX)
    gc.collect()
    losses = []
    seconds = time_calls(
        lambda: losses.append(step(case.size_px)), repeats, warm_up=0, synchronize=_synchroniser(device)
    )
    result: dict[str, Any] = {"seconds": seconds, "losses": [float(loss) for loss in losses]}
    if device.type == "cuda":
        result["peak_mb"], result["on_device"] = torch.cuda.max_memory_allocated(device) / 1e6, True
    if count:
        with OperationCounter() as counter:
            step(case.size_px)
        result["flop"] = counter.total
    if parts:
        clock = Clock(_synchroniser(device))
        with clock.watch(network):
            started = time.perf_counter()
            step(case.size_px, clock)
            clock.synchronize()
        result["parts"] = {**clock.seconds, "whole step": time.perf_counter() - started}
    return result


def time_evaluation(
    repeats: int = 1, per_call: int = 1, n_slices: int = 4, count: bool = False, **options: Any
) -> dict[str, Any]:
    """Time the segmentation of query slices, per slice, encoding included.

    The fast path prepares the support once, outside the time, which is given beside it; the naive twin
    encodes it again for each slice.
    """
    case = Case(**options)
    device = torch.device(case.device)
    choose_kernels(deterministic=False, precision=case.precision)
    network = make_network(case.config()).to(device).eval()
    batch = make_batch(case, case.size_px)
    support, mask = batch["support_images"][0].to(device), batch["support_masks"][0, 0].to(device)
    queries = batch["query_images"][0].expand(n_slices, -1, -1, -1).to(device)
    result: dict[str, Any] = {}
    if case.variant == "fast":
        segmenter = NetworkSegmenter(network, precision=case.precision)
        segmenter.encode([queries[:1]])
        started = time.perf_counter()
        state = segmenter.prepare(segmenter.encode([support]), mask)
        result["support_seconds"] = time.perf_counter() - started
        run = _segmenting(segmenter, state, queries, per_call=per_call)
    else:
        twin = NaiveFewShotSeg(network)
        run = _segmenting_naively(twin, support, mask, queries, precision=case.precision)
    seconds = time_calls(run, repeats, synchronize=_synchroniser(device))
    result["seconds"] = [each / n_slices for each in seconds]
    if device.type == "cuda":
        result["peak_mb"] = torch.cuda.max_memory_allocated(device) / 1e6
    if count:
        with OperationCounter() as counter:
            run()
        result["flop"] = counter.total / n_slices
    return result


def time_volume(
    repeats: int = 1, n_organs: int = 4, organ_slices: int = 14, **options: Any
) -> dict[str, Any]:
    """Time the segmentation of several organs in a volume, as evaluation does.

    Each organ has three supports, prepared within the time. The organs lie one after the other, each
    beginning in the middle of the one before.
    """
    case = Case(**options)
    device = torch.device(case.device)
    choose_kernels(deterministic=False, precision=case.precision)
    segmenter = NetworkSegmenter(make_network(case.config()).to(device), precision=case.precision)
    batch = make_batch(case, case.size_px)
    support, mask = batch["support_images"][0].to(device), batch["support_masks"][0, 0].to(device)
    starts = [organ * organ_slices // 2 for organ in range(n_organs)]
    images = batch["query_images"][0].expand(starts[-1] + organ_slices, -1, -1, -1)
    segmenter.encode([images[:1].to(device)])

    def run() -> None:
        states: dict[tuple[int, int], Any] = {}

        def support_of(organ: int, part: int) -> Any:
            if (organ, part) not in states:
                states[organ, part] = segmenter.prepare(segmenter.encode([support]), mask)
            return states[organ, part]

        requests = [
            Request(
                slices=torch.arange(start, start + organ_slices),
                parts=torch.arange(organ_slices) * 3 // organ_slices,
                support_of=partial(support_of, organ),
            )
            for organ, start in enumerate(starts)
        ]
        results = segment_scan(
            segmenter,
            images,
            requests,
            per_call=best_slices_per_call(device),
            device=device,
            on_encoding=lambda text: None,
            on_segmented=lambda n: None,
        )
        for _ in results:
            pass

    seconds = time_calls(run, repeats, warm_up=0, synchronize=_synchroniser(device))
    result: dict[str, Any] = {"seconds": seconds, "n_slices": n_organs * organ_slices}
    if device.type == "cuda":
        result["peak_mb"] = torch.cuda.max_memory_allocated(device) / 1e6
    return result


def _segmenting(
    segmenter: NetworkSegmenter, state: Any, queries: Tensor, *, per_call: int
) -> Callable[[], list[Tensor]]:
    def run() -> list[Tensor]:
        calls = [segmenter.encode([images]) for images in queries.split(per_call)]
        size = tuple(queries.shape[-2:])
        return [segmenter.segment(state, encoding, image_size=size).cpu() for encoding in calls]

    return run


def _segmenting_naively(
    twin: NaiveFewShotSeg, support: Tensor, mask: Tensor, queries: Tensor, *, precision: str
) -> Callable[[], list[Tensor]]:
    @torch.inference_mode()
    def run() -> list[Tensor]:
        with mixed_precision(queries.device, precision):
            return [twin.predict(support, mask[None], query[None]).cpu() for query in queries]

    return run


def _fast_loss(model: FewShotSeg, batch: dict[str, Tensor], config: Config, device: torch.device) -> Tensor:
    losses = training_losses(model, batch, config=config, step=1, device=device)
    return (losses.query + losses.alignment).mean()


def _naive_loss(model: FewShotSeg, batch: dict[str, Tensor], config: Config, device: torch.device) -> Tensor:
    names = ("support_images", "support_masks", "query_images", "query_masks")
    tensors = [batch[name][0].to(device) for name in names]
    with mixed_precision(device, config.precision):
        return sum(NaiveFewShotSeg(model, randomly=True)(*tensors))


def _synchroniser(device: torch.device) -> Callable[[], object] | None:
    return torch.cuda.synchronize if device.type == "cuda" else None
