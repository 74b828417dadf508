"""What a picture looks like to eyes that lack one kind of cone: about one man in twelve has such.

The matrices are those of Machado, Oliveira and Fernandes (2009) for the whole lack, on linear RGB.
"""

import re

EYES = {
    "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
}


def seen_by(eyes: str, svg: str) -> str:
    """The same SVG with each colour as these eyes see it."""
    return re.sub(r"#([0-9a-fA-F]{6})\b", lambda found: _seen(eyes, found[1]), svg)


def _seen(eyes: str, colour: str) -> str:
    light = [_linear(int(colour[at : at + 2], 16) / 255) for at in (0, 2, 4)]
    mixed = [sum(share * part for share, part in zip(row, light, strict=True)) for row in EYES[eyes]]
    return "#" + "".join(f"{round(255 * _encoded(part)):02x}" for part in mixed)


def _linear(part: float) -> float:
    return part / 12.92 if part <= 0.04045 else float(((part + 0.055) / 1.055) ** 2.4)


def _encoded(light: float) -> float:
    part = min(max(light, 0.0), 1.0)
    return 12.92 * part if part <= 0.0031308 else float(1.055 * part ** (1 / 2.4) - 0.055)
