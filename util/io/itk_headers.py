"""Find what ITK would assume silently about the grid of a NRRD or MetaImage file.

ITK takes the axes of any NRRD space but three for LPS, a missing direction for an axis of the patient, a
missing spacing for 1 mm, and every unit for millimetres. Some programs write such headers.
"""

from pathlib import Path

_MAX_HEADER_BYTES = 1 << 16
_NRRD_SPACES = (  # to whose axes ITK attends
    *("left-posterior-superior", "right-anterior-superior", "left-anterior-superior"),
    *("lps", "ras", "las"),
)
_MILLIMETRES = ("mm", "?", "")  # with how units are written that are not known
_LAST_META_FIELD = "elementdatafile"  # the voxels may follow
_META_DIRECTIONS = ("transformmatrix", "orientation", "rotation")
_META_SPACINGS = ("elementspacing", "elementsize")


def describe_nrrd_fault(path: Path) -> str | None:
    """Describe, in one line, what a NRRD header leaves open; None if nothing."""
    fields = _read_fields(path, separator=":")
    space = fields.get("space")
    if space is None:
        return "orientation unknown (no NRRD space)"
    if space.lower() not in _NRRD_SPACES:
        return f"orientation unknown (NRRD space {space}, must be one of {', '.join(_NRRD_SPACES[:3])})"
    if "space directions" not in fields:
        return "orientation and spacing unknown (no NRRD space directions)"
    units = fields.get("space units", "").replace('"', " ").split()
    return _describe_units(units, "NRRD space units")


def describe_meta_fault(path: Path) -> str | None:
    """Describe, in one line, what a MetaImage header leaves open; None if nothing."""
    fields = _read_fields(path, separator="=", last=_LAST_META_FIELD)
    if fields.keys().isdisjoint(_META_DIRECTIONS):
        return "orientation unknown (no TransformMatrix)"
    if fields.keys().isdisjoint(_META_SPACINGS):
        return "spacing unknown (no ElementSpacing)"
    return _describe_units([fields.get("distanceunits", "")], "DistanceUnits")


def _describe_units(units: list[str], field: str) -> str | None:
    other = [unit for unit in units if unit.lower() not in _MILLIMETRES]
    return f"lengths must be in mm, got {field} {' '.join(units)}" if other else None


def _read_fields(path: Path, *, separator: str, last: str | None = None) -> dict[str, str]:
    """Read the lines `name <separator> value` of a header that ends with an empty line or a `last` field."""
    with path.open("rb") as file:
        text = file.read(_MAX_HEADER_BYTES).decode("latin-1")
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, found, value = line.partition(separator)
        if found:
            fields[name.strip().lower()] = value.strip()
        if not line.strip() or name.strip().lower() == last:
            break
    return fields
