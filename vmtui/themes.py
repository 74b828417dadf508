"""Four looks: dark, light, rich in contrast, and without any colour."""

from textual.theme import Theme

DARK = Theme(
    "dark", primary="#5fafd7", secondary="#87afaf", accent="#87d7ff", success="#87d787", warning="#ffd75f", error="#ff8787",
    foreground="#d0d0d0", background="#121212", surface="#1c1c1c", panel="#303030", dark=True,
    text_alpha=1.0, variables={"text-muted": "#9e9e9e", "text-disabled": "#808080"},
)  # fmt: skip
LIGHT = Theme(
    "light", primary="#005f87", secondary="#5f5f5f", accent="#0000af", success="#005f00", warning="#875f00",
    error="#af0000", foreground="#1c1c1c", background="#ffffff", surface="#f6f6f6", panel="#dadada", dark=False,
    text_alpha=1.0, variables={"text-muted": "#5f5f5f", "text-disabled": "#808080"},
)  # fmt: skip
CONTRAST = Theme(
    "contrast", primary="#00ffff", secondary="#ffffff", accent="#00ffff", success="#00ff00", warning="#ffff00",
    error="#ff5f5f", foreground="#ffffff", background="#000000", surface="#000000", panel="#303030", dark=True,
    text_alpha=1.0, variables={"text-muted": "#d0d0d0", "text-disabled": "#909090"},
)  # fmt: skip
MONO = Theme(
    "mono", primary="#ffffff", secondary="#c0c0c0", accent="#ffffff", success="#ffffff", warning="#ffffff", error="#ffffff",
    foreground="#d0d0d0", background="#000000", surface="#000000", panel="#303030", dark=True,
    text_alpha=1.0, variables={"text-muted": "#9e9e9e", "text-disabled": "#808080"},
)  # fmt: skip

ALL = (DARK, LIGHT, CONTRAST, MONO)
