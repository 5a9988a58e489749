"""What each demo shift does, in a sentence, and how hard it is and why."""

from __future__ import annotations

STORIES: dict[str, str] = {
    "tape": "a new road: thin blue tape on a wooden floor with stray pale lines, no road surface at all",
    "trim": "a bent steering rod: the wheels point 11 degrees to the left of where they are told",
    "reverse": "a servo mounted the other way round: left is right",
    "pitch": "the camera slipped: it looks 37 degrees down instead of 20",
    "dark": "a tenth of the light: the camera's noise is nearly as strong as the road",
}
