"""Karlo's UnCLIP decoder through diffusers: CLIP ViT-L/14 embeddings (768-d) to 256 x 256 pictures.

The pipeline adds noise at its start and again at every step of both of its stages. All of it comes
from one seed a picture here, so that pictures of one seed differ only by their embeddings.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sing_utils.errors import SingError
from sing_utils.pictures import draw_noise, noise_seeds, require_diffusers, require_embeddings

REPOSITORY = "kakaobrain/karlo-v1-alpha-image-variations"


@dataclass(frozen=True, eq=False)
class Karlo:
    """UnCLIP as the paper uses it (appendix D); make one with `load`.

    Attributes:
        name: "karlo", with the folder or repository where it is not the published one.
        pipeline: diffusers' UnCLIPImageVariationPipeline.
        steps: denoising steps of the decoder.
        super_resolution_steps: and of the two upscaling networks.
        guidance: scale of classifier-free guidance; 1 is none.
        batch_size: pictures a pass; less needs less memory, and changes no picture.
        progress: show progress bars.
    """

    name: str
    pipeline: Any = field(repr=False)
    steps: int = 25
    super_resolution_steps: int = 7
    guidance: float = 8.0
    batch_size: int = 4
    progress: bool = True

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
            save_memory: compute attention in slices and, on a GPU, keep only the network there that
                is at work; slower.
            options: replace steps, guidance, batch size and the like.

        Raises:
            SingError: if diffusers or the weights are missing.
        """
        require_diffusers()
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.float16 if device.startswith("cuda") else torch.float32
        pipeline = _load_parts(_find(source), dtype)
        if save_memory:
            pipeline.enable_attention_slicing()
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

    @torch.inference_mode()
    def __call__(self, z: Any, *, seed: int = 0, shared_noise: bool = True) -> list[Image.Image]:
        """Embeddings (B, n) -> B pictures; see `sing_utils.pictures.Pictures`.

        Without a GPU the time it will take is measured first and given in a warning.
        """
        x = require_embeddings(z, self.dim, self.name)
        seeds = noise_seeds(len(x), seed, shared_noise)
        self.pipeline.set_progress_bar_config(disable=not self.progress)
        if self.pipeline._execution_device.type == "cpu":
            self._warn_of_time(x)
        pictures: list[Image.Image] = []
        for start in range(0, len(x), self.batch_size):
            rows = slice(start, start + self.batch_size)
            pictures += self._draw(x[rows], seeds[rows])
        return pictures

    def _draw(self, z: Tensor, seeds: list[int]) -> list[Image.Image]:
        p = self.pipeline
        decoder, upscaler = p.decoder.config, p.super_res_first.config
        low = (decoder.in_channels, decoder.sample_size, decoder.sample_size)
        high = (upscaler.in_channels // 2, upscaler.sample_size, upscaler.sample_size)
        return p(
            image_embeddings=z.to(p._execution_device, p.decoder.dtype),
            decoder_latents=self._latents(low, seeds, p.decoder_scheduler),
            super_res_latents=self._latents(high, seeds, p.super_res_scheduler),
            # Both stages also add noise at every step: a generator a picture, seeded like its start.
            generator=[torch.Generator().manual_seed(s) for s in seeds],
            decoder_num_inference_steps=self.steps,
            super_res_num_inference_steps=self.super_resolution_steps,
            decoder_guidance_scale=self.guidance,
        ).images

    def _latents(self, shape: tuple[int, ...], seeds: list[int], scheduler: Any) -> Tensor:
        noise = draw_noise(shape, seeds) * scheduler.init_noise_sigma
        return noise.to(self.pipeline._execution_device, self.pipeline.decoder.dtype)

    def _warn_of_time(self, z: Tensor) -> None:
        """Draw one picture with two steps a stage, and say what the whole will take."""
        start = time.perf_counter()
        quick = Karlo(self.name, self.pipeline, 2, 2, self.guidance, 1, False)
        quick._draw(z[:1], [0])
        a_step = (time.perf_counter() - start) / 4
        seconds = a_step * (self.steps + self.super_resolution_steps) * len(z)
        if seconds > 30:
            warnings.warn(
                f"no GPU: {len(z)} pictures by Karlo will take about {seconds / 60:.0f} minutes on this "
                f"processor ({a_step:.1f} s a step, measured just now); a GPU takes seconds.",
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
    except (OSError, ValueError) as error:
        raise SingError(
            f"{folder} holds no whole UnCLIP pipeline ({str(error).splitlines()[0][:120]}), expected a "
            f"folder for each of {', '.join([*models, *others])}: fetch it again with "
            f"`hf download {REPOSITORY}`, or write it with `pipeline.save_pretrained`."
        ) from None
    return UnCLIPImageVariationPipeline(**parts)


def _find(source: str) -> Path:
    """The folder of the weights: `source` itself, or where the hub's cache has or puts them."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(snapshot_download(source))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise SingError(
            f"{source!r} is no folder, and its weights are neither in {HF_HUB_CACHE} nor to be had from the "
            f"hub now ({type(error).__name__}): run `hf download {REPOSITORY}` where there is a network, or "
            "give a folder: karlo:FOLDER."
        ) from None
