"""Names of the methods that an evaluation scores, and what the scored slices are."""

UNTRAINED, COSINE, COPIED_MASK = "untrained", "untrained cosine", "copied support mask"
TRAINED, ADAPTED, REGISTRATION, UNET = "trained", "adapted", "registration", "one-scan U-Net"
NETWORK, NO_GUIDE = "network", "none"
# Values of the keys `method` and `guide`.
METHODS, GUIDES = (NETWORK, REGISTRATION), (NO_GUIDE, REGISTRATION)
SLICE_MEANINGS = {"chunks": "slices that hold the organ", "all_slices": "all slices"}


def guided(method: str) -> str:
    """Return the name of a method that registration guides."""
    return f"{method} + {REGISTRATION}"


def refined(method: str) -> str:
    """Return the name of a method that the scan's intensities refine."""
    return f"{method} + intensities"


def joined(method: str) -> str:
    """Return the name of a network's method that a one-scan U-Net joins."""
    return f"{method} + U-Net"


# A network's methods, from the least to the most that is done for a result.
NETWORK_METHODS = tuple(
    variant
    for base in (TRAINED, joined(TRAINED), ADAPTED, joined(ADAPTED))
    for variant in (base, refined(base), guided(base), refined(guided(base)))
)
