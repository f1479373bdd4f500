"""The mini UnCLIP: the embedded profile's small decoder, see data/embedded/decoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sing_utils.errors import SingError
from sing_utils.pictures.base import (
    MINI_WEIGHTS,
    draw_noise,
    noise_seeds,
    require_diffusers,
    require_embeddings,
)


@dataclass(frozen=True, eq=False)
class MiniUnCLIP:
    """The embedded profile's decoder: a small rectified flow, 64 x 64 pixels (data/embedded).

    Attributes:
        name: "mini".
        dim: n.
        unet: velocity network; its channels are components of patches of p x p pixels.
        mean, basis: a patch from its components, mean (3 p p,) and basis (3 p p, channels).
        scheduler: of the flow.
        steps: from noise to picture; 10 of UniPC's, of second order, are nearer the flow than 24 of Euler's.
        guidance: how far the velocity is pushed away from the one without an embedding; 1 is none.
        batch_size: pictures a forward pass.
    """

    name: str
    dim: int
    unet: Any = field(repr=False)
    mean: Tensor = field(repr=False)
    basis: Tensor = field(repr=False)
    scheduler: Any = field(repr=False)
    steps: int = 10
    guidance: float = 2.0
    batch_size: int = 64

    @classmethod
    def load(cls, folder: str | Path = MINI_WEIGHTS, *, name: str = "mini", **options: Any) -> MiniUnCLIP:
        """Load the weights of `folder`; `options` replace steps, guidance or batch size.

        Raises:
            SingError: if diffusers is missing, or the weights are missing or damaged.
        """
        diffusers = require_diffusers()
        folder = Path(folder)
        bars = diffusers.utils.logging
        shown = bars.is_progress_bar_enabled()
        bars.disable_progress_bar()  # four small files
        try:
            patches = load_file(folder / "patches.safetensors")
            unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet", dtype=torch.float32)
            scheduler = diffusers.UniPCMultistepScheduler.from_pretrained(folder / "scheduler")
        except (OSError, ValueError, SafetensorError) as error:
            raise SingError(
                f"no mini UnCLIP in {folder} ({str(error).splitlines()[0][:120]}), expected unet, scheduler "
                "and patches.safetensors: restore data/embedded/decoder from the repository, or train one "
                "with data/embedded/build/train_decoder.py."
            ) from None
        finally:
            if shown:
                bars.enable_progress_bar()
        unet = unet.to(_device()).eval().requires_grad_(False)
        mean, basis = (patches[k].to(unet.device) for k in ("mean", "basis"))
        width = unet.config.projection_class_embeddings_input_dim
        return cls(name, width, unet, mean, basis, scheduler, **options)

    @torch.inference_mode()
    def __call__(self, z: Any, *, seed: int = 0, shared_noise: bool = True) -> list[Image.Image]:
        """Embeddings (B, n) -> B pictures of 64 x 64 pixels; see `Pictures`."""
        x = require_embeddings(z, self.dim, self.name)
        seeds = noise_seeds(len(x), seed, shared_noise)
        starts = range(0, len(x), self.batch_size)
        parts = [self._draw(x[s : s + self.batch_size], seeds[s : s + self.batch_size]) for s in starts]
        pixels = torch.cat(parts).add(1).mul(127.5).clamp(0, 255).round().byte()
        return [Image.fromarray(p.permute(1, 2, 0).cpu().numpy()) for p in pixels]

    def _draw(self, z: Tensor, seeds: list[int]) -> Tensor:
        """One batch: (B, n) -> (B, 3, H, W), about -1..1."""
        config = self.unet.config
        shape = (config.in_channels, config.sample_size, config.sample_size)
        x = draw_noise(shape, seeds).to(self.unet.device)  # (B, channels, H / p, W / p)
        given = z.to(x) * self.dim**0.5  # the network was trained on entries of about 1
        given = torch.cat([given, torch.zeros_like(given)])
        self.scheduler.set_timesteps(self.steps)
        for t in self.scheduler.timesteps:
            both = self.unet(torch.cat([x, x]), t, encoder_hidden_states=None, class_labels=given).sample
            with_z, without = both.chunk(2)
            velocity = without + self.guidance * (with_z - without)
            x = self.scheduler.step(velocity, t, x).prev_sample
        patches = torch.einsum("bchw,pc->bphw", x, self.basis) + self.mean[:, None, None]
        return torch.nn.functional.pixel_shuffle(patches, round((len(self.mean) / 3) ** 0.5))


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
