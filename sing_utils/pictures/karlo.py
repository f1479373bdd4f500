"""Karlo's UnCLIP decoder through diffusers: CLIP ViT-L/14 embeddings (768-d) to 256 x 256 pictures.

The pipeline adds noise at its start and again at every step of both of its stages. All of it comes
from one seed a picture here, so that pictures of one seed differ only by their embeddings.

It was trained on CLIP's image embeddings as they come, which are many times longer than the unit
vectors of an `Encoder`; so a unit of length is scaled to CLIP's own mean length.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from sing_utils.errors import SingError
from sing_utils.models.clip import REPOSITORY, find_weights
from sing_utils.pictures.base import noise_seeds, require_diffusers, require_embeddings


@dataclass(frozen=True, eq=False)
class Karlo:
    """UnCLIP as the paper uses it (appendix D); make one with `load`.

    Attributes:
        name: "karlo", with the folder or repository where it is not the published one.
        pipeline: diffusers' UnCLIPImageVariationPipeline.
        steps: denoising steps of the decoder.
        super_resolution_steps: and of the two upscaling networks.
        guidance: scale of classifier-free guidance; 1 is none.
        batch_size: pictures a pass; less needs less memory. Up to rounding it changes no picture.
        progress: show progress bars.
        unit_norm: the length given to an embedding of length 1; None: measured once, as the mean length
            that the pipeline's own image encoder gives a few photographs. 1 takes raw embeddings.
    """

    name: str
    pipeline: Any = field(repr=False)
    steps: int = 25
    super_resolution_steps: int = 7
    guidance: float = 8.0
    batch_size: int = 4
    progress: bool = True
    unit_norm: float | None = None

    @classmethod
    def load(
        cls,
        source: str = REPOSITORY,
        *,
        device: str | None = None,
        save_memory: bool = False,
        **options: Any,
    ) -> Karlo:
        """Load Karlo from the model hub, its cache, or a folder.

        Args:
            source: repository, or folder that `pipeline.save_pretrained` wrote.
            device: "cuda" or "cpu"; None: a GPU if there is one. Half precision on a GPU.
            save_memory: on a GPU, keep only the network there that is at work (needs accelerate); one
                picture a pass unless `batch_size` says otherwise.
            options: replace the attributes above.

        Raises:
            SingError: if diffusers or the weights are missing.
        """
        require_diffusers()
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.float16 if device.startswith("cuda") else torch.float32
        pipeline = _load_parts(find_weights(source), dtype)
        if save_memory:
            options = {"batch_size": 1} | options
        if save_memory and device.startswith("cuda"):
            pipeline.enable_model_cpu_offload(device=device)
        else:
            pipeline.to(device)
        name = "karlo" if source == REPOSITORY else f"karlo:{source}"
        return cls(name, pipeline, **options)

    @property
    def dim(self) -> int:
        """n, the width of the embeddings it was trained for."""
        return int(self.pipeline.text_proj.config.clip_embeddings_dim)

    @torch.no_grad()
    def __call__(self, z: Any, *, seed: int = 0, shared_noise: bool = True) -> list[Image.Image]:
        """Embeddings (B, n) -> B pictures; see `sing_utils.pictures.base.Pictures`.

        Without a GPU the time it will take is measured first and given in a warning.
        """
        x = require_embeddings(z, self.dim, self.name) * (self.unit_norm or self._clip_norm)
        seeds = noise_seeds(len(x), seed, shared_noise)
        self.pipeline.set_progress_bar_config(disable=not self.progress, leave=False)
        if self.pipeline._execution_device.type == "cpu":
            self._warn_of_time(len(x))
        pictures: list[Image.Image] = []
        for start in range(0, len(x), self.batch_size):
            rows = slice(start, start + self.batch_size)
            pictures += self._draw(x[rows], seeds[rows], self.steps, self.super_resolution_steps)
        return pictures

    def _draw(self, z: Tensor, seeds: list[int], steps: int, upscaling_steps: int) -> list[Image.Image]:
        p = self.pipeline
        decoder, upscaler = p.decoder.config, p.super_res_first.config
        # One generator a picture: its two starts, then the noise that both stages add at every step.
        generators = [torch.Generator().manual_seed(s) for s in seeds]
        low = (decoder.in_channels, decoder.sample_size, decoder.sample_size)
        high = (upscaler.in_channels // 2, upscaler.sample_size, upscaler.sample_size)
        return p(
            image_embeddings=z.to(p._execution_device, p.decoder.dtype),
            decoder_latents=self._latents(low, generators, p.decoder_scheduler),
            super_res_latents=self._latents(high, generators, p.super_res_scheduler),
            generator=generators,
            decoder_num_inference_steps=steps,
            super_res_num_inference_steps=upscaling_steps,
            decoder_guidance_scale=self.guidance,
        ).images

    def _latents(self, shape: tuple[int, ...], generators: list[torch.Generator], scheduler: Any) -> Tensor:
        """Start noise (B, *shape), scaled as the scheduler wants its start."""
        noise = torch.stack([torch.randn(shape, generator=g) for g in generators])
        noise = noise * scheduler.init_noise_sigma
        return noise.to(self.pipeline._execution_device, self.pipeline.decoder.dtype)

    @cached_property
    def _clip_norm(self) -> float:
        """Mean length of the image encoder's raw embeddings of four photographs."""
        try:
            import skimage.data as photos
        except ImportError:
            raise SingError(
                "scikit-image is not installed, expected its photographs to measure CLIP's length on: "
                "run `pip install scikit-image`, or give unit_norm."
            ) from None
        pictures = [
            Image.fromarray(getattr(photos, n)()) for n in ("astronaut", "chelsea", "coffee", "rocket")
        ]
        p = self.pipeline
        pixels = p.feature_extractor(images=pictures, return_tensors="pt").pixel_values
        pixels = pixels.to(p._execution_device, p.image_encoder.dtype)
        return float(p.image_encoder(pixels).image_embeds.float().norm(dim=-1).mean())

    @cached_property
    def _seconds_a_picture(self) -> float:
        """Measured once: both stages with two steps each, then one decoder step more."""
        z, times = torch.zeros(1, self.dim), []
        self.pipeline.set_progress_bar_config(disable=True)
        for steps in (2, 2, 3):  # the first one warms up
            start = time.perf_counter()
            self._draw(z, [0], steps, 2)
            times.append(time.perf_counter() - start)
        self.pipeline.set_progress_bar_config(disable=not self.progress, leave=False)
        a_step = max(times[2] - times[1], 0.0)
        an_upscaling_step = max(times[1] - 2 * a_step, 0.0) / 2
        return a_step * self.steps + an_upscaling_step * self.super_resolution_steps

    def _warn_of_time(self, count: int) -> None:
        """Say how long `count` pictures will take, if it is long."""
        if count * (self.steps + self.super_resolution_steps) < 40:
            return  # measuring would take as long
        seconds = self._seconds_a_picture * count
        if seconds > 30:
            warnings.warn(
                f"no GPU: {count} pictures by Karlo will take about {seconds / 60:.0f} minutes on this "
                f"processor ({self._seconds_a_picture:.1f} s a picture, measured just now); a GPU takes "
                "seconds.",
                stacklevel=3,
            )


def _load_parts(folder: Path, dtype: torch.dtype) -> Any:
    """The pipeline from its parts: its own loader no longer finds UnCLIPTextProjModel (0.42)."""
    from diffusers import (
        UnCLIPImageVariationPipeline,
        UnCLIPScheduler,
        UNet2DConditionModel,
        UNet2DModel,
    )
    from diffusers.pipelines.deprecated.unclip import UnCLIPTextProjModel
    from transformers import (
        CLIPImageProcessor,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        CLIPVisionModelWithProjection,
    )

    models = {
        "decoder": UNet2DConditionModel,
        "text_proj": UnCLIPTextProjModel,
        "super_res_first": UNet2DModel,
        "super_res_last": UNet2DModel,
        "text_encoder": CLIPTextModelWithProjection,
        "image_encoder": CLIPVisionModelWithProjection,
    }
    others = {
        "tokenizer": CLIPTokenizer,
        "feature_extractor": CLIPImageProcessor,
        "decoder_scheduler": UnCLIPScheduler,
        "super_res_scheduler": UnCLIPScheduler,
    }
    try:
        parts = {k: c.from_pretrained(folder / k, dtype=dtype) for k, c in models.items()}
        parts |= {k: c.from_pretrained(folder / k) for k, c in others.items()}
    except (OSError, ValueError, RuntimeError, UnpicklingError, SafetensorError) as error:
        raise SingError(
            f"{folder} holds no whole UnCLIP pipeline ({str(error).splitlines()[0][:120]}), expected a "
            f"folder for each of {', '.join([*models, *others])}: fetch it again with "
            f"`hf download {REPOSITORY}`, or write it with `pipeline.save_pretrained`."
        ) from None
    return UnCLIPImageVariationPipeline(**parts)
