"""Train the mini UnCLIP decoder of the embedded profile; resumes where it was stopped.

    python data/embedded/build/train_decoder.py --photos FOLDER --work FOLDER --steps 12000

FOLDER of photos holds 64 x 64 pictures, laid out as WNID/*.jpg. WORK keeps their embeddings and the
state of the training, written every few minutes. A picture is cut into 4 x 4 patches, each of which
is kept as its first 12 principal components (16 x 16 positions of 12 numbers); a small U-Net learns
the velocity of a rectified flow from noise to pictures, given the embedding of the picture.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel, UniPCMultistepScheduler
from diffusers.training_utils import EMAModel
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import mse_loss, normalize, pixel_unshuffle

from sing_utils.features.extraction import extract
from sing_utils.features.store import FeatureStore
from sing_utils.models.encoders import load_embedded

OUT = Path(__file__).parents[1] / "decoder"
PATCH, COMPONENTS = 4, 12  # of 48 numbers a patch; 98 % of the variance, and no pixel noise to learn
BATCH, RATE, WARMUP, COOLDOWN, DECAY = 64, 1e-3, 300, 0.3, 0.01
DROPPED = 0.1  # share of examples without an embedding, for classifier-free guidance
LONE_TOWER_OUT = 0.75  # share of examples whose embedding is a judge's: one tower left out
TILT = 25.0  # degrees; embeddings are turned by up to this, as a translated feature is off, too
NORMS = (0.75, 1.05)  # translated features are shorter than embeddings
SAVE_SECONDS = 240
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def build_unet(width: int) -> UNet2DConditionModel:
    """The velocity network: (B, 12, 16, 16), time and embedding (B, n) -> (B, 12, 16, 16)."""
    return UNet2DConditionModel(
        sample_size=64 // PATCH,
        in_channels=COMPONENTS,
        out_channels=COMPONENTS,
        block_out_channels=(64, 128, 224),
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 3,  # attention costs more time here than it is worth
        mid_block_type=None,
        up_block_types=("UpBlock2D",) * 3,
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="projection",
        projection_class_embeddings_input_dim=width,
    )


def read_pixels(store: FeatureStore, photos: Path) -> Tensor:
    """All pictures of the store, (N, 3, 64, 64) uint8."""
    pictures = [np.asarray(Image.open(photos / p).convert("RGB")) for p in store.index.path]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def all_embeddings(store: FeatureStore) -> Tensor:
    """Embeddings by the whole encoder and by each judge: (1 + towers, N, n)."""
    encoder = load_embedded()
    towers = {t: store.read(t).float() for t in encoder.towers}
    encoders = [encoder, *(encoder.judge_of(t).encoder for t in encoder.towers)]
    return torch.stack([e.combine(towers) for e in encoders])


def draw_conditions(z: Tensor, rows: Tensor) -> Tensor:
    """Embeddings of `rows` as the decoder will meet them: z (1 + towers, N, n) -> (B, n)."""
    judge = torch.randint(1, len(z), rows.shape)
    which = torch.where(torch.rand(rows.shape) < LONE_TOWER_OUT, judge, 0)
    x = z[which, rows]  # (B, n)
    aside = torch.randn_like(x)
    aside = normalize(aside - (aside * x).sum(-1, keepdim=True) * x, dim=-1)
    tilt = torch.deg2rad(TILT * torch.rand(len(x), 1))
    x = x * tilt.cos() + aside * tilt.sin()
    x = x * (NORMS[0] + (NORMS[1] - NORMS[0]) * torch.rand(len(x), 1))
    return torch.where(torch.rand(len(x), 1) < DROPPED, 0.0, x) * x.shape[-1] ** 0.5


def fit_patches(pixels: Tensor) -> dict[str, Tensor]:
    """Principal components of patches: mean (48,), basis (48, 12).

    One scale serves all components, so that their coordinates have variance 1 on average and the first
    ones stay the larger.
    """
    x = pixel_unshuffle(pixels[::4].float() / 127.5 - 1, PATCH).permute(0, 2, 3, 1).flatten(0, 2)  # (P, 48)
    mean = x.mean(0)
    variance, axes = torch.linalg.eigh((x - mean).mT @ (x - mean) / len(x))  # ascending
    scale = variance[-COMPONENTS:].mean().sqrt()
    return {"mean": mean, "basis": axes.flip(1)[:, :COMPONENTS].contiguous() * scale}


def draw_pictures(pixels: Tensor, rows: Tensor, patches: dict[str, Tensor]) -> Tensor:
    """Pictures of `rows`, half of them mirrored: (B, 12, 16, 16)."""
    x = pixels[rows].float() / 127.5 - 1
    x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(-1), x)
    x = pixel_unshuffle(x, PATCH) - patches["mean"][:, None, None]  # (B, 48, 16, 16)
    inverse = patches["basis"] / patches["basis"].square().sum(0)
    return torch.einsum("bphw,pc->bchw", x, inverse)


def loss_of(unet: torch.nn.Module, x: Tensor, z: Tensor) -> Tensor:
    """Mean squared error of the velocity noise - picture, at logit-normal times."""
    x, z = x.to(DEVICE), z.to(DEVICE)
    sigma = torch.sigmoid(torch.randn(len(x), device=DEVICE))  # 0: picture, 1: noise
    noise = torch.randn_like(x)
    s = sigma[:, None, None, None]
    given = ((1 - s) * x + s * noise).to(memory_format=torch.channels_last)
    with torch.autocast(DEVICE, torch.bfloat16):
        velocity = unet(given, sigma * 1000, encoder_hidden_states=None, class_labels=z).sample
    return mse_loss(velocity.float(), noise - x)


def rate_at(step: int, steps: int) -> float:
    """Warm up, hold, and fall linearly over the last part."""
    left = (steps - step) / (COOLDOWN * steps)
    return RATE * min(1.0, (step + 1) / WARMUP, left)


def save_decoder(unet: UNet2DConditionModel, ema: EMAModel, patches: dict[str, Tensor], out: Path) -> None:
    """Averaged weights in half precision, as diffusers keeps a pipeline; and the patches' basis."""
    ema.store(unet.parameters())
    ema.copy_to(unet.parameters())
    half = build_unet(unet.config.projection_class_embeddings_input_dim)
    half.load_state_dict(unet.state_dict())
    half.half().save_pretrained(out / "unet", max_shard_size="3900KB")
    UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=2.0
    ).save_pretrained(out / "scheduler")
    save_file(patches, out / "patches.safetensors")
    ema.restore(unet.parameters())


def main() -> None:
    """Embed, train, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--steps", type=int, required=True)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    encoder = load_embedded()
    _ = encoder.identity  # loads the towers, which check themselves in whole precision
    with torch.autocast("cpu", torch.bfloat16):
        store = extract(encoder, args.photos, args.work / "store", dtype="float16", batch_size=64)
    pixels, z = read_pixels(store, args.photos), all_embeddings(store)
    patches = fit_patches(pixels)

    torch.manual_seed(0)
    unet = build_unet(z.shape[-1]).to(DEVICE, memory_format=torch.channels_last)
    ema = EMAModel(unet.parameters(), decay=0.9995, use_ema_warmup=True, power=0.75)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=RATE, weight_decay=DECAY, betas=(0.9, 0.98))
    state, step = args.work / "training.pt", 0
    if state.exists():
        kept = torch.load(state, weights_only=True, map_location=DEVICE)
        step = kept["step"]
        unet.load_state_dict(kept["unet"])
        ema.load_state_dict(kept["ema"])
        optimizer.load_state_dict(kept["optimizer"])
        torch.manual_seed(step)
    print(f"{sum(p.numel() for p in unet.parameters()) / 1e6:.2f} M weights, from step {step}", flush=True)

    saved, losses, began = time.monotonic(), [], time.monotonic()
    while step < args.steps:
        rows = torch.randint(len(pixels), (BATCH,))
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, args.steps)
        loss = loss_of(unet, draw_pictures(pixels, rows, patches), draw_conditions(z, rows))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        ema.step(unet.parameters())
        step += 1
        losses.append(float(loss.detach()))
        if step % 100 == 0:
            rate = len(losses) * BATCH / (time.monotonic() - began)
            print(f"step {step}: loss {np.mean(losses):.4f}, {rate:.0f} pictures/s", flush=True)
            losses, began = [], time.monotonic()
        if time.monotonic() - saved > SAVE_SECONDS or step == args.steps:
            kept = {"step": step, "unet": unet.state_dict(), "ema": ema.state_dict()}
            torch.save({**kept, "optimizer": optimizer.state_dict()}, state.with_suffix(".tmp"))
            os.replace(state.with_suffix(".tmp"), state)
            save_decoder(unet, ema, patches, args.work / "decoder")
            saved = time.monotonic()
    save_decoder(unet, ema, patches, args.out)


if __name__ == "__main__":
    main()
