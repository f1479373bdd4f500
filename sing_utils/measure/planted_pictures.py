"""Pictures of the planted world: scenes, and what is read off their translated features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from sing_utils.method.steering import largest_image_score, null_direction, steer
from sing_utils.planted.networks import Renderer, load_reader
from sing_utils.planted.scenes import FACTORS, HEADS, Scene, Scenes, caption, phrase
from sing_utils.planted.scores import LEVELS, World, fit_translator, level_prompts
from sing_utils.show.gallery import Shown, gallery

Rows = list[tuple[str, list[Shown]]]
_SHOWN = 144  # pixels: scenes are enlarged, each pixel a square
_CHANGED = ("colour", "background", "cloud")


def enlarged(image: Image.Image) -> Image.Image:
    """A scene, large enough to see, its pixels kept."""
    return image.resize((_SHOWN, _SHOWN), Image.Resampling.NEAREST)


def scene_rows(*, count: int = 4, seed: int = 3) -> Rows:
    """A few scenes with their captions, and one scene with one factor changed at a time."""
    scenes = Scenes(count, seed=seed)
    first = [_shown(scene, scene.caption.removeprefix("an image of ")) for scene in scenes]
    changes = []
    for factor in _CHANGED:
        now, levels = scenes[0].factors[factor], FACTORS[factor]
        level = levels[(levels.index(now) + 1) % len(levels)]
        changes.append(_shown(scenes[0].changed(factor, level), f"{factor}: {now} → {level}"))
    return [
        ("Scenes and their captions", first),
        ("The first of them, one factor changed", [_shown(scenes[0], "as it is"), *changes]),
    ]


def _shown(scene: Scene, words: str) -> Shown:
    return Shown(enlarged(scene.picture()), words, f"scene: {scene.caption}")


def telling_scenes(world: World, count: int) -> list[int]:
    """Evaluation scenes with a texture, a pattern and a cloud, those first that are read best."""
    read, levels = load_reader()(world.evaluation.z["planted"]), torch.from_numpy(world.evaluation.levels)
    parts = [p.gather(1, levels[:, [k]])[:, 0] for k, p in enumerate(read.values())]
    sure = torch.stack(parts).amin(0)  # (N,): the probability of the factor that is read worst
    plain = (levels[:, [list(FACTORS).index(f) for f in ("texture", "pattern", "cloud")]] == 0).any(1)
    return sure.masked_fill(plain, 0).argsort(descending=True)[:count].tolist()


def removal_rows(
    world: World, *, count: int = 1, heads: Sequence[str] = ("sees-all", "clean", "spurious")
) -> Rows:
    """For each head: scenes, what is read off Tf, and off Tf_tilde; heads that ignore whole factors."""
    chosen, rows = telling_scenes(world, count), []
    for name in heads:
        head = world.plant(name, **HEADS[name])
        T, f = fit_translator(world, head), head.features(world.evaluation.h[chosen])
        shown = []
        for i, Tf, Tf_tilde in zip(chosen, T(f), T(head.spaces().remove_null(f)), strict=True):
            shown.append(_shown(world.evaluation.scenes[i], "the scene"))
            shown.append(_read(Tf, "what its feature says"))
            shown.append(_read(Tf_tilde, "what its equivalent says, with the same logits"))
        rows.append((f"Head “{name}”: {_ignores(HEADS[name]['ignored'])}", shown))
    return rows


def intro_picture(folder: Path, world: World) -> None:
    """Write the introduction's picture into a run's results, intro_picture.html: one row, three heads."""
    rows = removal_rows(world)
    shown = rows[0][1][:2]
    for name, pictures in rows:
        ignored = name.partition(": ")[2]
        shown.append(replace(pictures[2], caption=f"same logits, from a head that {ignored}"))
    file = folder / "results" / "intro_picture.html"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(gallery([("Same logits, another meaning", shown)]).data, encoding="utf-8")


def _ignores(shares: dict[str, float]) -> str:
    seen = [f for f in FACTORS if shares.get(f, 0) < 1]
    if len(seen) == len(FACTORS):
        return "ignores nothing"
    return f"ignores all but the {' and the '.join(seen)}"


def _read(z: Tensor, words: str) -> Shown:
    read = load_reader()(z[None])
    levels = {f: FACTORS[f][int(p[0].argmax())] for f, p in read.items()}
    words = f"{words}; {levels['shape']} {float(read['shape'].max()):.0%}"
    return Shown(enlarged(Renderer()(z[None])[0]), words, f"{words}: {caption(levels)}")


def steering_rows(
    world: World, targets: Sequence[tuple[str, str]], *, degrees: Sequence[float] = (8, 16, 32)
) -> Rows:
    """One scene, steered in the null space of the clean head and of the one that sees all."""
    rows = []
    for name in ("clean", "sees-all"):
        head = world.plant(name, **HEADS[name])
        T, spaces = fit_translator(world, head), head.spaces()
        f = head.features(world.evaluation.h[:1])
        for factor, level in targets:
            u = world.texts(level_prompts())[LEVELS.index((factor, level))]
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
