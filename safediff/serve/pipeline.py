"""A checked release as a function from prompts to pictures."""

import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from safediff.errors import Inconclusive, SafediffError, UsageError, first_line
from safediff.export.engine_files import CONFIG_NAME
from safediff.export.exported_denoiser import ExportedDenoiser, open_denoiser
from safediff.export.exported_parts import ExportedDecoder, ExportedTextEncoder
from safediff.export.exported_unet import ExportedUNet
from safediff.export.parts import DECODER_FOLDER
from safediff.export.plan_profile import Profile, square_side
from safediff.export.plan_session import PlanSession
from safediff.export.providers import (
    CPU_PROVIDER,
    TENSORRT_PROVIDER,
    ExecutionOptions,
    drawing_provider,
)
from safediff.guard.base import Guard
from safediff.guard.load import make_guard
from safediff.models.backbone import Backbone
from safediff.models.load import as_backbone, load_backbone
from safediff.models.reader import Reader
from safediff.policy.content import require_allowed
from safediff.policy.plan import ModelPlan
from safediff.release.weights import denoiser_folder
from safediff.sample.sampler import Draw, Sampling, denoise_all, initial_latents
from safediff.serve.certified import EngineChoice, is_compiled, text_folders
from safediff.serve.settings import Misfit, default_settings, misfit, verified_settings
from safediff.serve.settings import Settings as Settings
from safediff.serve.trust import Trust, establish


@dataclass(frozen=True)
class Order:
    """One picture: the same order gives the same picture in any batch."""

    prompt: str
    seed: int = 0
    index: int = 0
    """Which picture of this prompt and seed."""


class SafePipeline:
    """Draws with the engine of a release, behind the guard of its policy.

    One batch at a time: calls from several threads wait for each other.
    """

    def __init__(
        self, backbone: Backbone, trust: Trust, *, guard: Guard | None, max_batch: int = 8
    ) -> None:
        if guard is not None:
            guard.check(backbone)
        self.backbone, self.trust, self.guard, self.max_batch = backbone, trust, guard, max_batch
        self.verified = verified_settings(trust.plan)
        self.defaults = self.verified or default_settings(backbone)
        """Those that the policy was verified with."""
        self.reader = Reader(backbone)
        self._null = backbone.null()
        self._lock = threading.Lock()

    @classmethod
    def from_release(
        cls,
        path: str | Path,
        *,
        engine: EngineChoice = "auto",
        provider: str | None = None,
        num_threads: int | None = None,
        cuda_graph: bool | None = None,
        spin: bool = True,
        public_key: Path | None = None,
        accept_unverified: str | None = None,
        guard: Guard | None = None,
        max_batch: int = 8,
    ) -> "SafePipeline":
        """Check a release, then open its engine.

        Args:
            path: A release, or a folder of ``safediff export --full``.
            engine: ``onnx``, ``torch``, the path of a plan, or ``auto``: a plan where it was gated,
                fits this machine and can be opened, else ONNX where it was gated (``establish``).
            provider: Of ONNX Runtime; another one is never used in its place. None: CUDA's where
                it is, as the gate draws, else the CPU's.
            num_threads: Threads of one operator.
            cuda_graph: Launch the denoiser's calls as CUDA graphs, one for each size. None: those
                of a plan of one size, where that can be done. True: a plan that ``auto`` took and
                that can't be opened so is an error.
            spin: Whether ONNX Runtime's threads keep their cores busy while they wait.
            public_key: Checks the signature first.
            accept_unverified: Why the release is served without a certificate that says pass.
            guard: Takes the place of the guard of the policy, with which it was verified: where
                it is another one, the certificate does not speak for the pictures, so a reason
                must be given.
            max_batch: Most pictures drawn at once.

        Raises:
            UsageError: the release was changed, before or while it was opened, is not certified,
                or lacks what was asked for.
            Inconclusive: something can't be read or opened.
        """
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        running = _Running(
            provider=provider, num_threads=num_threads, cuda_graph=cuda_graph, spin=spin
        )
        unopened: dict[str, str] = {}
        while True:
            trust = establish(
                Path(path),
                engine=engine,
                provider=provider,
                public_key=public_key,
                accept_unverified=accept_unverified,
                guard=guard,
                unopened=unopened,
            )
            try:
                session = _plan_session(trust, running)
                break
            except SafediffError as error:
                if engine != "auto" or not trust.plan_file or cuda_graph:
                    raise
                unopened[trust.plan_file] = f"it can't be opened here: {error}"
        chosen = guard or _policy_guard(trust)
        backbone = _open(trust, running, session, max_rows=_max_rows(chosen, max_batch))
        trust.require_unchanged()
        return cls(backbone, trust, guard=chosen, max_batch=max_batch)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the pictures, in pixels."""
        config: Any = self.backbone.vae.config
        factor = 2 ** (len(config.block_out_channels) - 1)
        _, height, width = self.backbone.latent_shape
        return width * factor, height * factor

    @property
    def drawn_by(self) -> str:
        """What draws: the part, its engine, and where that runs, such as ``unet onnx on ...``."""
        name = denoiser_folder(self.trust.path).name
        denoiser: Any = self.backbone.denoiser
        if self.trust.engine == "torch":
            return f"{name} torch on {denoiser.device}"
        graph = ", as a CUDA graph" if denoiser.cuda_graph else ""
        if self.trust.engine == "onnx":
            return f"{name} onnx on {denoiser.provider}{graph}"
        return f"{name} {self.trust.plan_file} on {denoiser.device}{graph}"

    def fits(self, prompt: str) -> bool:
        """Whether every text encoder reads all of a prompt."""
        return self.reader.cut_after(prompt) is None

    def misfit(self, settings: Settings) -> Misfit | None:
        """What is wrong with settings; None where pictures can be drawn with them."""
        return misfit(settings, self.backbone, self.guard, self.verified)

    def __call__(
        self,
        prompts: str | Sequence[str],
        *,
        seed: int = 0,
        num_images: int = 1,
        settings: Settings | None = None,
    ) -> list[Image.Image]:
        """Pictures, prompt by prompt, ``num_images`` of each.

        Raises:
            UsageError: a prompt is refused by the content rules or longer than a text encoder's
                window, or the settings are none to draw with (``misfit``).
            Inconclusive: the engine produced values that are not finite.
        """
        texts = [prompts] if isinstance(prompts, str) else prompts
        orders = [Order(text, seed, index) for text in texts for index in range(num_images)]
        return list(self.stream(orders, settings))

    def stream(
        self, orders: Iterable[Order], settings: Settings | None = None
    ) -> Iterator[Image.Image]:
        """The pictures in order, each as soon as its batch is done.

        Raises:
            UsageError: a prompt is refused by the content rules or longer than a text encoder's
                window, or the settings are none to draw with (``misfit``).
            Inconclusive: the engine produced values that are not finite.
        """
        remaining = iter(orders)
        while batch := list(islice(remaining, self.max_batch)):
            for picture in self.draw(batch, settings or self.defaults):
                yield Image.fromarray(picture.permute(1, 2, 0).numpy())

    @torch.no_grad()
    def draw(self, orders: Sequence[Order], settings: Settings) -> Tensor:
        """One batch of pictures, uint8 (n, 3, H, W).

        Raises:
            UsageError: a prompt is refused by the content rules or longer than a text encoder's
                window, or the settings are none to draw with (``misfit``).
            Inconclusive: the engine produced values that are not finite.
        """
        if found := self.misfit(settings):
            raise UsageError(f"{found.param}: {found.message}", "leave it out, or ask as it says")
        require_allowed([order.prompt for order in orders])
        sampling = Sampling(num_steps=settings.num_steps, guidance_scale=settings.guidance_scale)
        shape = self.backbone.latent_shape
        draws = [Draw(order.prompt, order.index) for order in orders]
        latents = torch.cat(
            [initial_latents([d], shape, o.seed) for d, o in zip(draws, orders, strict=True)]
        )
        with self._lock:
            c = self.backbone.encode([order.prompt for order in orders])
            c_0 = self._null.repeat(len(orders))
            guard = self.guard
            z = denoise_all(self.backbone, draws, c_0, c, sampling, guard, latents=latents)
            images, finite = self.backbone.decode(z)
            if not bool(finite.all()):
                raise Inconclusive(
                    "the engine produced values that are not finite, so there is no picture",
                    "lower the guidance scale, or use an fp32 engine",
                )
            return images.cpu()


def _policy_guard(trust: Trust) -> Guard | None:
    plan = trust.plan.get("guard")
    return None if plan is None else make_guard(plan["name"], plan["texts"])


@dataclass(frozen=True, kw_only=True)
class _Running:
    """How a release is to be run, as it was asked for."""

    provider: str | None
    num_threads: int | None
    cuda_graph: bool | None
    spin: bool

    def without_onnx_runtime(self) -> str | None:
        """The first option that does nothing where ONNX Runtime runs no part."""
        if self.provider not in (None, CPU_PROVIDER):
            return "--provider"
        return None if self.spin else "--no-spin"

    def ignored_by_torch(self) -> str | None:
        """The first option that does nothing where PyTorch's weights are served."""
        return self.without_onnx_runtime() or ("--cuda-graph" if self.cuda_graph else None)


def _plan_session(trust: Trust, running: _Running) -> PlanSession | None:
    """The opened plan; None where another engine was chosen."""
    if trust.engine != "plan":
        return None
    plan = trust.path / trust.plan_file
    return PlanSession(plan, trust.plan_sha256, cuda_graph=running.cuda_graph)


def _max_rows(guard: Guard | None, max_batch: int) -> int:
    """Of one call: a picture takes a row for each of its texts, a guard's among them."""
    return (2 + len(guard.texts if guard else ())) * max_batch


def _open(
    trust: Trust, running: _Running, session: PlanSession | None, *, max_rows: int
) -> Backbone:
    if trust.engine == "torch":
        if option := running.ignored_by_torch():
            asked = f"{option} needs an engine that was gated"
            raise UsageError(
                f"{trust.path}: {asked}, and PyTorch's weights are served", f"leave {option} out"
            )
        return _by_torch(trust)
    provider, folder = running.provider or drawing_provider(), denoiser_folder(trust.path)
    options: ExecutionOptions = {
        "provider": provider,
        "num_threads": running.num_threads,
        "spin": running.spin,
    }
    if session is not None:
        if not is_compiled(trust.path) and (option := running.without_onnx_runtime()):
            asked = f"{option} is for ONNX Runtime, which runs no part beside {trust.plan_file}"
            raise UsageError(f"{trust.path}: {asked}", f"leave {option} out")
        return _around(trust, ExportedUNet(folder, session=session), options)
    if provider == TENSORRT_PROVIDER and folder.name == "unet":
        options["profile"] = _profile(folder, max_rows)
    recorded: ExecutionOptions = {**options, "cuda_graph": bool(running.cuda_graph)}
    # the other parts run once a batch, so that recording them is not worth its memory
    return _around(trust, open_denoiser(folder, **recorded), options)


def _around(trust: Trust, denoiser: ExportedDenoiser, options: ExecutionOptions) -> Backbone:
    if not is_compiled(trust.path):
        return _by_torch(trust).with_denoiser(denoiser)
    return _without_torch(trust.path, denoiser, options)


def _by_torch(trust: Trust) -> Backbone:
    return load_backbone(ModelPlan(base=str(trust.path), dtype=trust.dtype))


def _profile(unet: Path, max_rows: int) -> Profile:
    """What the server draws: pictures of the model's own size."""
    config = json.loads((unet / CONFIG_NAME).read_text(encoding="utf-8"))
    side = square_side(config["sample_size"])
    sides = {"min_side": side, "opt_side": side, "max_side": side}
    return Profile(min_batch=1, opt_batch=2, max_batch=max_rows, **sides)


def _without_torch(path: Path, unet: ExportedDenoiser, options: ExecutionOptions) -> Backbone:
    """All parts compiled; of diffusers' folder only tokenizers and scheduler are read."""
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from safediff.export.quiet import quiet

    new: Any = DiffusionPipeline.from_pretrained
    encoders = text_folders(path)
    absent = dict.fromkeys(["unet", "vae", *(encoder.name for encoder in encoders)])
    try:
        with quiet():
            pipeline = new(str(path), **absent)
    except Exception as error:
        raise Inconclusive(
            f"{path}: cannot be loaded: {first_line(error)}", "export it again"
        ) from error
    pipeline.unet = unet
    for encoder in encoders:
        setattr(pipeline, encoder.name, ExportedTextEncoder(encoder, **options))
    pipeline.vae = ExportedDecoder(path / DECODER_FOLDER, **options)
    return as_backbone(str(path), pipeline)
