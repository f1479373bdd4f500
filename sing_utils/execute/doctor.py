"""What a run of a profile will take, said before anything is downloaded.

>>> from sing_utils.checkout import project_root
>>> from sing_utils.runs.profiles import load_profile
>>> print(report(load_profile("embedded"), project_root()).splitlines()[-1].partition(";")[0])
Disk: weights 0 kB, features 0 kB, book about 50 MB
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from sing_utils.errors import SingError
from sing_utils.execute.needs import Need, ask_sizes, needs
from sing_utils.execute.speed import Rates, Work, measure, work_of
from sing_utils.models.classifiers import LinearHead, load_classifier
from sing_utils.runs.profiles import Profile, rooted
from sing_utils.runs.run import all_pictures, run_pictures

# In a report: a run can't be done as things are.
BLOCKERS = ("MISSING", "CAN'T BE LOADED", "NOT ENOUGH")
IMAGENET_CLASS = 1300  # training pictures a class, at most


def report(profile: Profile, root: Path, *, seconds: float = 10.0) -> str:
    """What a run of the profile will take, as text.

    Args:
        profile: whose run.
        root: of the checkout, whose disk is looked at.
        seconds: of measuring this machine.
    """
    found = ask_sizes(needs(profile))
    missing = [n for n in found if not n.here]
    download = sum(n.size or 0 for n in {n.repository or n.source: n for n in missing}.values())
    lines = [f"Profile {profile.name}: {profile.description}", "", "Weights"]
    lines += [*map(_line, found), *_own_lines(profile, root), *_download_lines(profile, missing, download)]
    lines += ["", *_pictures_lines(profile, root), ""]
    count, stored = picture_count(profile, root), 0
    if profile.features is None or profile.pictures is not None:
        work = work_of(profile)
        lines += _time_lines(profile, work, measure(seconds), count)
        stored = sum(4 * w.width * count for w in work)
    else:
        lines.append("Time: features are stored already; the notebooks take minutes.")
    return "\n".join([*lines, "", *_disk_lines(root, download, stored)])


def picture_count(profile: Profile, root: Path) -> int:
    """Pictures that a run extracts: those that are there, else what the profile's classes say."""
    if profile.pictures is not None:
        try:
            return len(run_pictures(root, profile))
        except SingError:
            pass  # the report says that they are missing
    return (profile.per_class or IMAGENET_CLASS) * len(profile.classes or {"": ""})


def _download_lines(profile: Profile, missing: list[Need], download: int) -> list[str]:
    unknown = [n.what for n in missing if n.size is None]
    more = f", and {', '.join(unknown)} (size not known here)" if unknown else ""
    commands = dict.fromkeys(n.fetch for n in missing if n.fetch)
    lines = [f"  to download: about {_bytes(download)}{more}", *(f"    {command}" for command in commands)]
    return [*lines, f"    or all at once: sing fetch --profile {profile.name}"] if missing else lines


def _time_lines(profile: Profile, work: list[Work], rates: Rates, count: int) -> list[str]:
    lines = [f"Time for {count:,} pictures on this machine ({rates.device}; measured just now, rough)"]
    counted = profile.encoder.partition(":")[0] not in ("embedded", "planted")
    if len(work) < len(profile.classifiers) + counted:
        lines.append("  (classifiers of your own, of hf: and of planted: are not counted)")
    lines += [f"  {w.name}: {_duration(count * rates.seconds(w))}" for w in work]
    workers = profile.workers or max(1, (os.cpu_count() or 2) - 1)
    decoding = count * len(work) / rates.decoded / workers
    lines.append(f"  decoding, processes: {workers}, beside that: {_duration(decoding)}")
    if profile.picture_backend.startswith("karlo"):
        lines.append("  Karlo draws some tens of pictures for notebooks 04 and 05: without a GPU, hours")
    return lines


def _disk_lines(root: Path, download: int, stored: int) -> list[str]:
    free = shutil.disk_usage(root).free
    lines = [
        f"Disk: weights {_bytes(download)}, features {_bytes(stored)}, book about 50 MB; free {_bytes(free)}"
    ]
    return [*lines, "  NOT ENOUGH: free some space first."] if download + stored > free else lines


def _line(need: Need) -> str:
    size = "?" if need.size is None else _bytes(need.size)
    state = "here" if need.here else f"missing, {size}"
    return f"  {need.what}: {need.source}: {state}; licence: {need.licence}"


def _own_lines(profile: Profile, root: Path) -> list[str]:
    """Which classifiers of one's own are there and still no use; those of libraries are known to load."""
    lines = []
    for name in profile.classifiers:
        source = rooted(profile.source_of(name), root)
        kind, _, rest = source.partition(":")
        if kind in ("file", "head") or (kind == "hf" and Path(rest).is_dir()):
            try:
                LinearHead.load(rest) if kind == "head" else load_classifier(
                    source, rehearse=profile.rehearse
                )
            except SingError as error:
                lines.append(f"  {name}: CAN'T BE LOADED: {error}")
    return lines


def _pictures_lines(profile: Profile, root: Path) -> list[str]:
    if profile.pictures is not None:
        try:
            all_pictures(root, profile)
        except SingError as error:
            return [f"Pictures: {profile.pictures}: MISSING: {error}"]
        return [f"Pictures: {profile.pictures}: here"]
    if profile.features is not None:
        return [f"Pictures: none needed, features are in {profile.features}"]
    return ["Pictures: MISSING: give -p imagenet_dir=FOLDER (ImageNet) or -p images=FOLDER (your own)"]


def _bytes(n: float) -> str:
    """Bytes for people.

    >>> _bytes(102_000_000)
    '102 MB'
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if n >= size:
            return f"{n / size:.1f} {unit}" if unit == "GB" else f"{n / size:.0f} {unit}"
    return f"{n / 1e3:.0f} kB"


def _duration(seconds: float) -> str:
    """Seconds for people.

    >>> _duration(7200)
    '2.0 h'
    """
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
