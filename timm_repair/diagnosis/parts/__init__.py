"""The parts that a pattern may be made of, in the order in which light, lens, sensor and file
act on an image.

- part.py: what a part is.
- geometry.py, optics.py, weather.py, tone.py, noise.py, files.py, overlay.py: its kinds.
"""

from timm_repair.diagnosis.parts import files, geometry, noise, optics, overlay, tone, weather
from timm_repair.diagnosis.parts.part import Kind

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        *geometry.KINDS,
        *weather.KINDS,
        *optics.KINDS,
        *tone.KINDS,
        *noise.KINDS,
        *overlay.KINDS,
        *files.KINDS,
    )
}
ORDER = {name: place for place, name in enumerate(KINDS)}
