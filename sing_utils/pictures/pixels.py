"""Is there a picture behind a feature? A search among pictures near a photograph for one that has it.

A step in the null space (eq. 13) is taken in feature space, where any vector will do. A picture is a
stronger demand. This module looks for one near a photograph x by gradients through the classifier:

    |Π_n (f(x') - f_wanted)|² / |f_wanted - f(x)|²  +  weight · |Π_p (f(x') - f_wanted)|² / |f_wanted - f(x)|²

is made small over pictures x' within a budget of x. It is 1 at the start of a null step, whose principal
part is that of the photograph. What comes out is rounded to 8 bits a channel, as a file would be, and is
still within the budget.

    >>> budget = Budget("L∞", 8)  # of 255, in every pixel and channel
    >>> budget.within(torch.tensor([[[[-20.0, 3.0, 9.0]]]])).tolist()
    [[[[-8.0, 3.0, 8.0]]]]
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from sing_utils.errors import SingError
from sing_utils.method.head import HeadSpaces
from sing_utils.models.classifiers import Classifier

STEPS, WEIGHT, RATE = 150, 10.0, 0.5
_BATCH = 8  # photos searched at once; part of a result, since rounding differs between batches


@dataclass(frozen=True)
class Budget:
    """How far a picture may be from its photograph.

    Attributes:
        norm: "L∞", the largest change of any pixel's channel, or "L2", the root mean square over all.
        size: of 255.
    """

    norm: Literal["L∞", "L2"] = "L∞"
    size: float = 8.0

    def __str__(self) -> str:
        return f"{self.norm} {self.size:g}/255"

    def within(self, change: Tensor) -> Tensor:
        """The nearest change that the budget allows: (B, 3, H, W), of 255."""
        if self.norm == "L∞":
            return change.clamp(-self.size, self.size)
        rms = change.square().mean((1, 2, 3), keepdim=True).sqrt()
        return change * (self.size / rms.clamp_min(self.size))

    def rounded(self, change: Tensor) -> Tensor:
        """A change in whole steps of 1/255, toward none where rounding could leave the budget."""
        return change.trunc() if self.norm == "L2" or self.size % 1 else change.round()


@dataclass(frozen=True, eq=False)
class Screen:
    """The pixels that a classifier sees: pictures at its own resolution, before it normalises them.

    Attributes:
        black: its input for a black picture, (3, H, W).
        white: and for a white one.
    """

    black: Tensor
    white: Tensor

    @classmethod
    def of(cls, classifier: Classifier) -> Screen:
        """Found by what its transform does with a black, a white and a grey picture.

        Raises:
            SingError: if that is not one linear map a channel.
        """
        plain = (Image.new("RGB", (512, 512), colour) for colour in ("black", "white", (51, 51, 51)))
        black, white, grey = (classifier.prepare(image) for image in plain)
        error = float((grey - (black + 0.2 * (white - black))).abs().max())
        if error > 1e-4 or float((white - black).abs().min()) == 0:
            raise SingError(
                f"{classifier.name} does not see a picture as pixels times a number plus a number, expected "
                "a transform that ends in such a normalisation: choose another classifier."
            )
        return cls(black, white)

    def pixels(self, classifier: Classifier, image: Image.Image) -> Tensor:
        """What a classifier gets of a picture, as 8-bit pixels: (3, H, W), uint8."""
        x = (classifier.prepare(image.convert("RGB")) - self.black) / (self.white - self.black)
        return (255 * x).round().clamp(0, 255).to(torch.uint8)

    def input(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W), 0 to 255 -> the network's input, (B, 3, H, W), float32."""
        black, white = self.black.to(pixels.device), self.white.to(pixels.device)
        return black + pixels / 255 * (white - black)


def as_image(pixels: Tensor) -> Image.Image:
    """Pixels (3, H, W), uint8 -> a picture."""
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def as_pixels(image: Image.Image) -> Tensor:
    """A picture -> pixels (3, H, W), uint8."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def difference(after: Tensor, before: Tensor, times: float) -> Tensor:
    """A change made visible: `times` as large, about a middle grey; (3, H, W), uint8 all."""
    return (128 + times * (after.float() - before.float())).round().clamp(0, 255).to(torch.uint8)


def shuffled(after: Tensor, before: Tensor, *, seed: int) -> Tensor:
    """Noise of the very size of a change: its values, exchanged among pixels and channels; uint8.

    Args:
        after: a found picture, (3, H, W), uint8.
        before: its photograph.
        seed: of the exchange.
    """
    change = after.short() - before.short()
    order = torch.randperm(change.numel(), generator=torch.Generator().manual_seed(seed))
    return (before.short() + change.flatten()[order].view_as(change)).clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found for B photographs.

    Attributes:
        pixels: the pictures, (B, 3, H, W), uint8.
        loss: before each step, (steps, B); 1 is a null step of which nothing is done.
    """

    pixels: Tensor
    loss: Tensor


def search(
    classifier: Classifier,
    spaces: HeadSpaces,
    pixels: Tensor,
    wanted: Tensor,
    *,
    budget: Budget | None = None,
    steps: int = STEPS,
    weight: float = WEIGHT,
    rate: float = RATE,
    keep: Path | None = None,
) -> Found:
    """Look for pictures near some photographs whose features are as wanted, by Adam inside the budget.

    The start is the photograph itself, and nothing is drawn: the same call gives the same pictures.

    Args:
        classifier: any; it is searched where it is, on a CPU or a GPU.
        spaces: of its head.
        pixels: the photographs as it sees them (`Screen.pixels`), (B, 3, H, W), uint8.
        wanted: a feature for each, (B, m).
        budget: None: 8/255 in every pixel and channel.
        steps: of the search.
        weight: of the principal part beside the null part.
        rate: length of a step in each pixel and channel, of 255.
        keep: folder that keeps what is done, eight photographs a file; a search that was stopped goes on
            there, and one that is done is read.

    Raises:
        SingError: for shapes that do not pair up, or a wanted feature that is the photograph's own.
    """
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or wanted.shape != (len(pixels), spaces.width):
        raise SingError(
            f"got pixels {tuple(pixels.shape)} of {pixels.dtype} and wanted {tuple(wanted.shape)}, expected "
            f"(B, 3, H, W) of torch.uint8 and (B, {spaces.width})."
        )
    budget, parts = budget or Budget(), []
    for start in range(0, len(pixels), _BATCH):
        rows = slice(start, start + _BATCH)
        x, goal = pixels[rows], wanted[rows].to(torch.float32)
        options: dict[str, Any] = {"budget": budget, "steps": steps, "weight": weight, "rate": rate}
        path = keep and keep / f"{_digest(classifier.identity, x, goal, options)}.safetensors"
        if path is None or not path.exists():
            found = _search(classifier, spaces, x, goal, **options)
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                fresh = path.with_suffix(f".{os.getpid()}")
                save_file({"pixels": found.pixels.contiguous(), "loss": found.loss}, fresh)
                fresh.replace(path)
        else:
            found = Found(**load_file(path))
        parts.append(found)
    return Found(torch.cat([p.pixels for p in parts]), torch.cat([p.loss for p in parts], dim=1))


def _search(
    classifier: Classifier,
    spaces: HeadSpaces,
    pixels: Tensor,
    wanted: Tensor,
    *,
    budget: Budget,
    steps: int,
    weight: float,
    rate: float,
) -> Found:
    """One batch of `search`."""
    screen, device = Screen.of(classifier), classifier.device
    V_n, V_p = (V.to(device, torch.float32) for V in (spaces.null_basis, spaces.principal_basis))
    x0, wanted = pixels.to(device, torch.float32), wanted.to(device)
    size = (wanted - classifier(screen.input(x0)).features).square().sum(1)  # (B,)
    if not bool((size > 0).all()):
        raise SingError("a wanted feature is the photograph's own, expected another one to search for.")
    change, mean, square = (torch.zeros_like(x0) for _ in range(3))
    losses = []
    for k in range(1, steps + 1):
        change.requires_grad_()
        off = classifier.forward(screen.input(x0 + change)).features - wanted  # (B, m)
        loss = ((off @ V_n).square().sum(1) + weight * (off @ V_p).square().sum(1)) / size  # (B,)
        (g,) = torch.autograd.grad(loss.sum(), change)
        mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g**2  # Adam
        step = (mean / (1 - 0.9**k)) / ((square / (1 - 0.999**k)).sqrt() + 1e-12)
        change = budget.within(change.detach() - rate * step)
        change = (x0 + change).clamp(0, 255) - x0
        losses.append(loss.detach())
    found = x0 + budget.rounded(change.detach())
    return Found(found.to(torch.uint8).cpu(), torch.stack(losses).cpu())


def _digest(identity: Any, pixels: Tensor, wanted: Tensor, options: dict[str, Any]) -> str:
    said = json.dumps([identity, {k: str(v) for k, v in options.items()}], sort_keys=True).encode()
    bytes_of: Sequence[bytes] = [x.contiguous().cpu().numpy().tobytes() for x in (pixels, wanted)]
    return hashlib.sha256(b"".join([said, *bytes_of])).hexdigest()[:16]
