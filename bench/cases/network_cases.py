"""Time training steps and segmentation with the network and the naive one."""

import contextlib
import gc
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.cases.instruments import FlopCounter, Profiler
from bench.measuring import MB, measure_usage, time_calls
from bench.naive.naive_network import NaiveFewShotSeg
from config_ssl_upload import Config, dataset_defaults, parse_config
from models.few_shot_seg import FewShotSeg
from models.inference.calls import Request, best_slices_per_call
from models.inference.scan import segment_scan
from models.inference.segmenters import NetworkSegmenter
from models.precision import mixed_precision
from script.workflows.networks import make_network
from training import prepare_network, training_losses
from util.config.settings import merge_values
from util.engine.optimisation import make_optimizer
from util.parallel.devices import SINGLE_RANK
from util.parallel.hardware import choose_kernels

WARM_UP_PX = 64
QUERY_SEED, SUPPORT_SEED = 1, 2


class Case:
    """Network, input size and device of a measurement.

    Args:
        size_px: height and width of the slices.
        device: a torch device.
        variant: `fast`, or `naive` for the naive network (one episode of one shot).
        changes: nested configuration values other than the defaults.
    """

    def __init__(
        self, *, size_px: int = 256, device: str = "cpu", variant: str = "fast", **changes: Any
    ) -> None:
        values = merge_values(dataset_defaults("CHAOST2"), {"model": {"encoder_weights": None}})
        naive = {"channels_last": False} if variant == "naive" else {}
        self.config = parse_config(merge_values(values, {**changes, **naive}))
        self.size_px, self.device, self.variant = size_px, torch.device(device), variant
        choose_kernels(deterministic=False, precision=self.config.precision)
        self.network = make_network(self.config)

    def make_batch(self, size_px: int) -> dict[str, Tensor]:
        """Make episodes of noise with an ellipse that covers 5 percent of the slice."""
        y, x = torch.meshgrid(*[torch.linspace(-1, 1, size_px)] * 2, indexing="ij")
        mask = ((y / 0.22) ** 2 + (x / 0.29) ** 2 < 1).float()
        n_episodes, n_shots = self.config.batch_size, self.config.n_shot
        shape = (n_episodes, n_shots, 1, size_px, size_px)
        batch = {"episode_index": torch.arange(n_episodes)}
        for name, seed, n_slices in (("support", SUPPORT_SEED, n_shots), ("query", QUERY_SEED, 1)):
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))[:, :n_slices]
            batch[f"{name}_images"] = noise + 2 * mask
            batch[f"{name}_masks"] = mask.expand(n_episodes, n_slices, -1, -1).contiguous()
        return batch

    def prepare_evaluation(self) -> tuple[FewShotSeg, Tensor, Tensor, Tensor]:
        """Return network, support and query `(1, 1, H, W)`, and support mask `(H, W)`."""
        batch = self.make_batch(self.size_px)
        tensors = batch["support_images"][0], batch["query_images"][0], batch["support_masks"][0, 0]
        return self.network.to(self.device).eval(), *(tensor.to(self.device) for tensor in tensors)

    @property
    def synchronize(self) -> Callable[[], object] | None:
        """Function that waits for the device; None on a CPU."""
        return torch.cuda.synchronize if self.device.type == "cuda" else None

    def device_memory(self) -> dict[str, Any]:
        """Return the peak on a CUDA device for the result; empty on other devices."""
        if self.device.type != "cuda":
            return {}
        return {"peak_mb": torch.cuda.max_memory_allocated(self.device) / MB, "on_device": True}


def time_training(
    repeats: int = 1, time_parts: bool = False, count_flop: bool = False, n_usages: int = 0, **options: Any
) -> dict[str, Any]:
    """Time training steps: forward in both directions, backward, optimiser.

    A warm-up step on small slices precedes them. If requested, one further step measures `parts`, in seconds,
    another counts `flop`, and `n_usages` further ones give the entries of `usages`, see `measure_usage`.
    `options` are those of `Case`.
    """
    case = Case(**options)
    config, network, device = case.config, case.network.train(), case.device
    model = prepare_network(config, network, device=device, ranks=SINGLE_RANK)
    optimizer = make_optimizer(config.optim, network.parameters(), device=device)
    compute_loss = _fast_loss if case.variant == "fast" else _naive_loss

    def step(size_px: int = case.size_px, profiler: Profiler | None = None) -> None:
        loss = compute_loss(model, case.make_batch(size_px), config, device)
        with profiler.part("backward") if profiler else contextlib.nullcontext():
            loss.backward()
        with profiler.part("optimiser") if profiler else contextlib.nullcontext():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    step(case.size_px if config.compile or device.type == "cuda" else WARM_UP_PX)
    gc.collect()
    seconds = time_calls(step, repeats, warm_up=0, synchronize=case.synchronize)
    result: dict[str, Any] = {"seconds": seconds, **case.device_memory()}
    if n_usages:
        result["usages"] = [measure_usage(step) for _ in range(n_usages)]
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
    repeats: int = 1,
    per_call: int = 1,
    n_slices: int = 4,
    count_flop: bool = False,
    n_usages: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """Time the segmentation of query slices, per slice, encoding included.

    Each of `n_usages` further runs gives an entry of `usages` for all its slices; see `measure_usage`.

    The fast path prepares the support once, timed separately as `support_seconds`; the naive network encodes
    it again for each slice.
    """
    case = Case(**options)
    network, support, query, mask = case.prepare_evaluation()
    queries = query.expand(n_slices, -1, -1, -1)
    result: dict[str, Any] = {}
    if case.variant == "fast":
        segmenter = NetworkSegmenter(network, precision=case.config.precision)
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
            with mixed_precision(queries.device, case.config.precision):
                return [naive.predict(support, mask[None], query[None]).cpu() for query in queries]

    seconds = time_calls(run, repeats, synchronize=case.synchronize)
    result |= {"seconds": [total / n_slices for total in seconds], **case.device_memory()}
    if n_usages:
        result["usages"] = [measure_usage(run) for _ in range(n_usages)]
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
    network, support, query, mask = case.prepare_evaluation()
    segmenter = NetworkSegmenter(network, precision=case.config.precision)
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


def _fast_loss(model: nn.Module, batch: dict[str, Tensor], config: Config, device: torch.device) -> Tensor:
    losses = training_losses(model, batch, config=config, step=1, device=device)
    return (losses.query + losses.alignment).mean()


def _naive_loss(model: nn.Module, batch: dict[str, Tensor], config: Config, device: torch.device) -> Tensor:
    names = ("support_images", "support_masks", "query_images", "query_masks")
    tensors = [batch[name][0].to(device) for name in names]
    with mixed_precision(device, config.precision):
        return sum(NaiveFewShotSeg(model, randomly=True)(*tensors))
