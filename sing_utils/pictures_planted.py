"""Pictures of notebook 06: scenes, and what is read off their translated features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from sing_utils.gallery import Shown
from sing_utils.planted import FACTORS, HEADS, Scene, Scenes, caption, phrase
from sing_utils.planted_models import Renderer, load_reader
from sing_utils.planted_scores import LEVELS, World, fit_translator
from sing_utils.steering import largest_image_score, null_direction, steer

Rows = list[tuple[str, list[Shown]]]
_SHOWN = 144  # pixels: scenes are enlarged, each pixel a square


def enlarged(image: Image.Image) -> Image.Image:
    """A scene, large enough to see, its pixels kept."""
    return image.resize((_SHOWN, _SHOWN), Image.Resampling.NEAREST)


def scene_rows(*, count: int = 6, seed: int = 3) -> Rows:
    """A few scenes with their captions, and one scene with each factor changed."""
    scenes = Scenes(count, seed=seed)
    first = [_shown(scene, scene.caption.removeprefix("an image of ")) for scene in scenes]
    changes = []
    for factor, levels in FACTORS.items():
        now = scenes[0].factors[factor]
        level = levels[(levels.index(now) + 1) % len(levels)]
        changes.append(_shown(scenes[0].changed(factor, level), f"{factor}: {now} → {level}"))
    return [
        ("Scenes and their captions", first),
        ("The first of them, one factor changed", [_shown(scenes[0], "as it is"), *changes]),
    ]


def _shown(scene: Scene, words: str) -> Shown:
    return Shown(enlarged(scene.picture()), words, f"scene: {scene.caption}")


def removal_rows(world: World, *, count: int = 3) -> Rows:
    """For each named head: scenes, what is read off T f, and off T f~."""
    rows = []
    for name, options in HEADS.items():
        head = world.plant(name, **options)
        T, f = fit_translator(world, head), head.features(world.evaluation.h[:count])
        before = T(f)
        after = T.after_null_removal(head.spaces())(f)
        shown = []
        for i in range(count):
            scene = world.evaluation.scenes[i]
            shown.append(Shown(enlarged(scene.picture()), "the scene", f"scene: {scene.caption}"))
            for z, words in ((before[i], "read off Tf"), (after[i], "without the null component")):
                shown.append(_read(z, words))
        rows.append((f"Head “{name}”: {_ignores(options['ignored'])}", shown))
    return rows


def _ignores(shares: dict[str, float]) -> str:
    if not shares:
        return "ignores nothing of any factor"
    parts = [f if a == 1 else f"{a:.0%} of {f}" for f, a in shares.items() if a > 0]
    return f"ignores {', '.join(parts)}"


def _read(z: Tensor, words: str) -> Shown:
    read = load_reader()(z[None])
    levels = {f: FACTORS[f][int(p[0].argmax())] for f, p in read.items()}
    words = f"{words}; {levels['shape']} {float(read['shape'].max()):.0%}"
    return Shown(enlarged(Renderer()(z[None])[0]), words, f"{words}: {caption(levels)}")


def steering_rows(
    world: World, targets: Sequence[tuple[str, str]], *, degrees: Sequence[float] = (8, 16, 24, 32)
) -> Rows:
    """One scene, steered in the null space of the clean head and of the one that sees all."""
    rows = []
    for name in ("clean", "sees-all"):
        head = world.plant(name, **HEADS[name])
        T, spaces = fit_translator(world, head), head.spaces()
        f = head.features(world.evaluation.h[:1])
        for factor, level in targets:
            u = world.texts()[LEVELS.index((factor, level))]
            most = float(largest_image_score(f, null_direction(f, u, T, spaces), T)[0])
            shown = [_read(T(f)[0], "start")]
            for wanted in degrees:
                turned = min(wanted, 0.9 * most)
                there = steer(f, u, T, spaces, degrees=turned)
                if bool(torch.isnan(there.epsilon).any()):
                    continue
                shown.append(_read(T(there.f_eps)[0], f"IS = {turned:.0f}°"))
            rows.append((f"Head “{name}”, toward “{phrase(factor, level)}”", shown))
    return rows
